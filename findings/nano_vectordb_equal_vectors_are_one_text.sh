#!/usr/bin/env bash
# Surprise: of two texts with the same embedding that are stored without ids one is lost, without an error: the id is a
#   hash of the vector alone. An uncased model, a limit of tokens and unknown words give different texts equal vectors.
#   Stored in a second call, the later text replaces the earlier one.
# Versions: nano-vectordb 0.0.4.3.
# Users: always give __id__, and compare the number of texts with len(database).
# Source: the documents of one call are put into a dictionary by that hash.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nano-vectordb==0.0.4.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from nano_vectordb import NanoVectorDB

print("nano-vectordb", version("nano-vectordb"))
print("guess: a record without an id gets one of its own")
vector = numpy.array([0.6, 0.8], dtype="float32")
texts = ["Turkey", "turkey"]
without = NanoVectorDB(2, storage_file="without.json")
answer = without.upsert([{"__vector__": vector.copy(), "text": text} for text in texts])
later = NanoVectorDB(2, storage_file="later.json")
for text in texts:
    later.upsert([{"__vector__": vector.copy(), "text": text}])
named = NanoVectorDB(2, storage_file="named.json")
named.upsert([{"__id__": str(number), "__vector__": vector.copy(), "text": text} for number, text in enumerate(texts)])
found = [[hit["text"] for hit in database.query(vector, top_k=5)] for database in (without, later, named)]
print("seen: without ids", found[0], answer, "in two calls", found[1], "with ids", sorted(found[2]))
assert len(without) == len(later) == 1 and found[1] == ["turkey"] and len(found[0]) == 1
assert sorted(found[2]) == sorted(texts)
PYTHON
