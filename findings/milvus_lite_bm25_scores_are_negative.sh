#!/usr/bin/env bash
# Surprise: scores of a BM25 search are negative, while those of COSINE and IP are positive, and a radius, which is to
#   drop texts below a score, drops nothing: code that keeps scores above 0 keeps no text.
# Versions: milvus-lite 3.2.2, pymilvus 3.0.2.
# Users: take the rank, or the absolute value, of BM25 scores in a file of Milvus Lite, and drop weak hits yourself.
# Source: the best text comes first, with the smallest number; a weighted ranker of a hybrid search handles that, code
#   outside does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'milvus-lite==3.2.2' 'pymilvus==3.0.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from pymilvus import DataType, Function, FunctionType, MilvusClient

print("milvus-lite", version("milvus-lite"), "pymilvus", version("pymilvus"))
print("guess: as with COSINE and IP a better text has a larger score, and the score of a hit is above 0")
client = MilvusClient("./texts.db")
schema, indices = client.create_schema(), client.prepare_index_params()
schema.add_field("id", DataType.INT64, is_primary=True)
schema.add_field("text", DataType.VARCHAR, max_length=100, enable_analyzer=True)
schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
schema.add_function(Function("bm25", FunctionType.BM25, ["text"], ["words"]))
indices.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
indices.add_index("vector", index_type="FLAT", metric_type="COSINE")
client.create_collection("texts", schema=schema, index_params=indices)
texts = ["apple apple apple", "apple pie with cream", "pie", "cream cake"]
client.insert("texts", [{"id": number, "text": text, "vector": [1.0, number / 4]} for number, text in enumerate(texts)])


def search(query, field, **options):
    """Return the ids and scores of the hits, in their order."""
    return [(hit["id"], round(hit["distance"], 3)) for hit in client.search("texts", [query], anns_field=field, limit=4, **options)[0]]


words, vectors = search("apple", "words"), search([1.0, 0.0], "vector")
limited = search("apple", "words", search_params={"params": {"radius": 0.5}})
limited_vectors = search([1.0, 0.0], "vector", search_params={"params": {"radius": 0.9}})
print("seen: BM25", words, "with radius 0.5", limited, "COSINE", vectors, "with radius 0.9", limited_vectors)
assert [number for number, _ in words] == [0, 1] and words[0][1] < words[1][1] < 0 and limited == words
assert len(vectors) == 4 and all(score > 0.5 for _, score in vectors) and 0 < len(limited_vectors) < 4
client.close()
PYTHON
