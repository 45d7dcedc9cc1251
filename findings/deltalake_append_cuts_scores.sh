#!/usr/bin/env bash
# Surprise: appending to a Delta table casts what does not fit its schema: scores of 0.97 that are appended to a column of
#   whole numbers are stored as 0, 1e300 as infinity in a float column, and a list of tokens as the text "[good, film]". A
#   table whose first rows had no fractions keeps none. Nothing is said; a NaN and a number that is too large are refused.
# Versions: deltalake 1.6.6, pyarrow 26.0.1.
# Users: give the schema when the table is made (pa.float64() for scores), and compare pa.Table.schema with that of the table
#   before each append; rows.cast(schema) of pyarrow refuses a fraction.
# Source: the writer casts each batch to the schema of the table.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'deltalake==1.6.6' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pyarrow
from deltalake import DeltaTable, write_deltalake

print("deltalake", version("deltalake"), "pyarrow", version("pyarrow"))
print("guess: rows that do not fit the schema of a table are refused, or the column is widened")


def append(name, first, second):
    """Return what a table of the first column holds of the second one."""
    write_deltalake(name, pyarrow.table({"x": first, "new": [False]}))
    write_deltalake(name, pyarrow.table({"x": second, "new": [True]}), mode="append")
    return [row["x"] for row in DeltaTable(name).to_pyarrow_table().to_pylist() if row["new"]]


score = append("score", pyarrow.array([1]), pyarrow.array([0.97]))
large = append("large", pyarrow.array([1.0], pyarrow.float32()), pyarrow.array([1e300]))
tokens = append("tokens", pyarrow.array(["a"]), pyarrow.array([["good", "film"]]))
print("seen: 0.97 is", score, "1e300 is", large, "tokens are", tokens)
assert score == [0] and large == [float("inf")] and tokens == ["[good, film]"]
try:
    append("nan", pyarrow.array([1]), pyarrow.array([float("nan")]))
    raise SystemExit("a NaN was taken")
except Exception as error:
    print("a NaN:", type(error).__name__)
try:
    pyarrow.table({"x": [0.97]}).cast(pyarrow.schema({"x": pyarrow.int64()}))
    raise SystemExit("pyarrow cut a fraction")
except pyarrow.ArrowInvalid as error:
    print("pyarrow:", error)
PYTHON
