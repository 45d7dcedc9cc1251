#!/usr/bin/env bash
# Surprise: a table whose first vectors hold whole numbers from 0 to 255 (counts, one-hot, quantized codes, a vector of
#   zeros) gets a column of bytes: embeddings that are added later lose their fractions without an error, so that
#   [0.7, 0.3] is stored as [0, 0].
# Versions: lancedb 0.40.0, pyarrow 26.0.1.
# Users: give a schema, or a numpy array of float32, when a table is made.
# Source: the type of a vector column is inferred; lists of integers that fit become uint8, others float32, and what is
#   added is cast to the column's type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'lancedb==0.40.0' 'pyarrow==26.0.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import lancedb
import numpy

print("lancedb", version("lancedb"), "pyarrow", version("pyarrow"))
print("guess: the column named vector holds float32, or an error says that a fraction does not fit")
database = lancedb.connect("texts")
later = [{"vector": [0.7, 0.3]}, {"vector": numpy.array([0.9, 3.9], dtype="float32")}]
first = {"zeros": [0, 0], "one-hot": [1, 0], "negative": [1, -1], "floats": [1.0, 0.0]}
kinds, stored = {}, {}
for name, vector in first.items():
    table = database.create_table(name, [{"vector": vector}])
    table.add(later)
    kinds[name] = str(table.schema.field("vector").type.value_type)
    stored[name] = [[round(number, 4) for number in row["vector"]] for row in table.to_arrow().to_pylist()]
    print("seen:", name, kinds[name], stored[name])
assert kinds == {"zeros": "uint8", "one-hot": "uint8", "negative": "float", "floats": "float"}
assert stored["zeros"][1:] == stored["one-hot"][1:] == [[0, 0], [0, 3]]
assert stored["negative"][1:] == stored["floats"][1:] == [[0.7, 0.3], [0.9, 3.9]]
PYTHON
