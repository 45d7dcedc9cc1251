#!/usr/bin/env bash
# Surprise: read_json(...).where(...).limit(3) looks for hits among the first three rows of the file only: of 3000 hits that
#   come later none is found, and of limit(5000) none either. CSV, Parquet and data in memory give the hits, and so does JSON
#   after collect(). Nothing is said.
# Versions: daft 0.7.26.
# Users: call collect() between where and limit (or show), or write the file as Parquet first.
# Source: filter and limit are both handed down to the reader (explain(show_all=True)), and that of JSON applies the limit
#   first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'daft==0.7.26'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

import daft

print("daft", version("daft"))
print("guess: where and limit give the first hits, whatever the format of the file is")
rows = [{"id": number, "label": "pos" if number >= 9000 else "neg"} for number in range(12000)]
Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
Path("texts.csv").write_text("id,label\n" + "".join(f"{row['id']},{row['label']}\n" for row in rows), encoding="utf-8")
daft.from_pylist(rows).write_parquet("texts")


def hits(frame, limit):
    """Return the ids of the first hits."""
    return frame.where(daft.col("label") == "pos").limit(limit).to_pydict()["id"]


def read():
    """Return the rows of the JSON file, not yet read."""
    return daft.read_json("texts.jsonl")


seen = {"json": hits(read(), 3), "csv": hits(daft.read_csv("texts.csv"), 3), "parquet": hits(daft.read_parquet("texts"), 3)}
seen["collected"] = read().where(daft.col("label") == "pos").collect().limit(3).to_pydict()["id"]
print("seen:", seen, "limit 5000:", len(hits(read(), 5000)), "no limit:", read().where(daft.col("label") == "pos").count_rows())
assert seen["csv"] == seen["parquet"] == seen["collected"] == [9000, 9001, 9002]
assert seen["json"] == [] and len(hits(read(), 5000)) == 0
assert read().where(daft.col("label") == "pos").count_rows() == 3000
PYTHON
