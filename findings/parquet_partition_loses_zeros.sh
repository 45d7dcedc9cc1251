#!/usr/bin/env bash
# Surprise: a string column used as partition comes back as integers: "007" and "7" become the same value, in two folders.
# Versions: pyarrow 26.0.1.
# Users: do not partition by ids or codes, or read with partitioning=pyarrow.dataset.partitioning(schema, flavor="hive").
# Source: the value is only in the folder's name, and reading infers its type from the names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

print("pyarrow", pa.__version__)
print("guess: the column has the type and the values that were written")
table = pa.table({"code": ["007", "7"], "text": ["a", "b"]})
pq.write_to_dataset(table, "parts", partition_cols=["code"])
read = pq.read_table("parts")
hive = pa.dataset.partitioning(pa.schema([("code", pa.string())]), flavor="hive")
exact = pq.read_table("parts", partitioning=hive)
print("seen:", read["code"].to_pylist(), read.schema.field("code").type, "; with a schema", exact["code"].to_pylist())
assert set(read["code"].to_pylist()) == {7} and set(exact["code"].to_pylist()) == {"007", "7"}
PYTHON
