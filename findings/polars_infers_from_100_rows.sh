#!/usr/bin/env bash
# Surprise: polars.from_dicts looks at 100 rows; after them a fraction is cut to an integer and a new key is dropped, both
#   without an error. read_ndjson drops the key too, but raises for the fraction; read_json raises for the key.
# Versions: polars 2.1.0.
# Users: pass infer_schema_length=None, or a schema, whenever rows come from JSON.
# Source: infer_schema_length is 100 by default, and from_dicts is not strict about values beyond it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'polars==2.1.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io

import polars as pl

print("polars", pl.__version__)
print("guess: the score 1.5 in row 101 stays 1.5, and its label makes a column or an error")
rows = [{"score": 1}] * 100 + [{"score": 1.5, "label": "x"}]
table = pl.from_dicts(rows)
lines = "".join('{"score":1}\n' for _ in range(100)) + '{"score":2,"label":"x"}\n'
by_lines = pl.read_ndjson(io.BytesIO(lines.encode())).columns
try:
    pl.read_json(io.BytesIO(("[" + ",".join(lines.split()) + "]").encode()))
    raise SystemExit("changed: read_json takes the new key")
except pl.exceptions.ComputeError as error:
    refused = str(error)
whole = pl.from_dicts(rows, infer_schema_length=None)
print("seen: from_dicts", table.columns, "last score", table["score"][-1], "; read_ndjson", by_lines)
print("seen: read_json raises:", refused)
print("seen: with infer_schema_length=None", whole.columns, "last score", whole["score"][-1])
assert table.columns == ["score"] and table["score"][-1] == 1 and by_lines == ["score"]
assert whole.columns == ["score", "label"] and whole["score"][-1] == 1.5
PYTHON
