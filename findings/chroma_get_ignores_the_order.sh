#!/usr/bin/env bash
# Surprise: get(ids=[...]) of Chroma returns records in the order in which they were added, not in that of the ids: zipped
#   with the ids, embeddings and texts belong to others. qdrant's retrieve keeps the order.
# Versions: chromadb 1.5.9, qdrant-client 1.20.0 (local mode).
# Users: look records up by the ids of the answer: dict(zip(found["ids"], found["embeddings"])).
# Source: ids are a filter, not a list of places; ids that are missing or repeated leave no gap, either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'chromadb==1.5.9' 'qdrant-client==1.20.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import chromadb
import qdrant_client
from qdrant_client import QdrantClient, models

print("chromadb", chromadb.__version__, "qdrant-client", __import__("importlib.metadata").metadata.version("qdrant-client"))
print("guess: record i of the answer is that of id i of the question")
vectors = {3: [1.0, 0.0], 1: [0.0, 1.0], 2: [1.0, 1.0]}
client = chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False))
collection = client.create_collection("texts", embedding_function=None)
collection.add(ids=[str(number) for number in vectors], embeddings=list(vectors.values()))
qdrant = QdrantClient(":memory:")
qdrant.create_collection("texts", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
qdrant.upsert("texts", [models.PointStruct(id=number, vector=vector) for number, vector in vectors.items()])
asked = [2, 1, 3]
chroma = [int(number) for number in collection.get(ids=[str(number) for number in asked])["ids"]]
points = [point.id for point in qdrant.retrieve("texts", asked)]
print("seen: asked for", asked, "Chroma", chroma, "qdrant", points)
assert chroma == list(vectors) != asked == points
PYTHON
