#!/usr/bin/env bash
# Surprise: read_json takes the types from the first 1000 lines and cuts what comes later to them: after 1000 scores of 0 or 1
#   a score of 0.97 is read as 0, and a key that appears later is left out. The same table as CSV raises an error.
# Versions: datafusion 55.0.0, pyarrow 26.0.1.
# Users: pass schema= to read_json, or schema_infer_max_records= with the number of lines.
# Source: the reader of JSON casts numbers to the inferred type; a cast of a float to an integer cuts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datafusion==55.0.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

import pyarrow
from datafusion import SessionContext

print("datafusion", version("datafusion"), "pyarrow", version("pyarrow"))
print("guess: a score of 0.97 is read as 0.97, or the file is refused")
rows = [{"id": number, "score": number % 2} for number in range(1000)] + [{"id": 1000, "score": 0.97, "note": "late"}]
Path("rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
Path("rows.csv").write_text("id,score\n" + "".join(f"{row['id']},{row['score']}\n" for row in rows), encoding="utf-8")
context = SessionContext()
last = context.read_json("rows.json").to_pylist()[-1]
given = context.read_json("rows.json", schema_infer_max_records=10_000).to_pylist()[-1]
print("seen:", last, "with schema_infer_max_records:", given)
assert last == {"id": 1000, "score": 0}
assert given == {"id": 1000, "score": 0.97, "note": "late"}
schema = pyarrow.schema({"id": pyarrow.int64(), "score": pyarrow.float64()})
assert context.read_json("rows.json", schema=schema).to_pylist()[-1]["score"] == 0.97
try:
    context.read_csv("rows.csv").to_pylist()
    raise SystemExit("CSV was read")
except Exception as error:
    print("CSV:", str(error)[:120])
PYTHON
