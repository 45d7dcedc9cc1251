#!/usr/bin/env bash
# Surprise: running pyarrow.parquet.write_to_dataset twice into one folder doubles the rows; pyarrow.dataset.write_dataset,
#   which it calls, refuses the second run.
# Versions: pyarrow 26.0.1.
# Users: a job that is run again must pass existing_data_behavior="delete_matching" or an own basename_template.
# Source: write_to_dataset sets "overwrite_or_ignore" and puts a new random id into each file's name, so nothing is overwritten.
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
print("guess: the second run replaces the first, or both functions refuse it")
table = pa.table({"id": [1, 2]})
for _ in range(2):
    pq.write_to_dataset(table, "scores")
rows = pq.read_table("scores").num_rows
pa.dataset.write_dataset(table, "other", format="parquet")
try:
    pa.dataset.write_dataset(table, "other", format="parquet")
    raise SystemExit("changed: write_dataset writes into a full folder")
except pa.ArrowInvalid as error:
    print("seen: write_to_dataset twice gives", rows, "rows; write_dataset raises:", error)
assert rows == 4
PYTHON
