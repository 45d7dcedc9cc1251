#!/usr/bin/env bash
# Surprise: insert of a text whose id exists keeps the old one and raises nothing: the answer is a status with the code 2,
#   in a list of them for a batch, while a vector of the wrong length or a missing field raises an error. An update
#   of an id that is not there gives a status too. A corpus that is indexed again keeps its old embeddings.
# Versions: zvec 0.8.0.
# Users: use upsert, or look at ok() of each status that insert, update and delete return.
# Source: the record is checked in Python, which raises; whether the id exists is known to the engine, which answers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'zvec==0.8.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import zvec
from zvec import CollectionSchema, DataType, Doc, FieldSchema, FlatIndexParam, MetricType, VectorSchema

print("zvec", version("zvec"))
print("guess: a text that is not stored raises an error")
vectors = VectorSchema("vector", DataType.VECTOR_FP32, 2, index_param=FlatIndexParam(metric_type=MetricType.IP))
schema = CollectionSchema(name="texts", fields=[FieldSchema("model", DataType.INT64)], vectors=vectors)
collection = zvec.create_and_open(path="texts", schema=schema)


def record(name, model, vector):
    """Return a document."""
    return Doc(id=name, vectors={"vector": vector}, fields={"model": model})


collection.insert(record("a", 1, [1.0, 0.0]))
statuses = collection.insert([record("a", 2, [0.0, 1.0]), record("b", 2, [0.0, 1.0])])
stored = {name: found.fields["model"] for name, found in collection.fetch(["a", "b"]).items()}
missing = collection.update(record("c", 2, [0.0, 1.0]))
try:
    collection.insert(record("d", 2, [0.0, 1.0, 0.0]))
    raised = None
except ValueError as error:
    raised = str(error)
print("seen: stored", stored, "statuses", statuses, "update of c", missing, "three numbers for two:", raised)
assert stored == {"a": 1, "b": 2} and [status.ok() for status in statuses] == [False, True]
assert not missing.ok() and "dimension" in raised
PYTHON
