#!/usr/bin/env bash
# Surprise: srsly, with which spaCy and Prodigy read and write JSON, keeps ten decimals: the probability 1e-12 is
#   written as 0.0. It also reads inaccurately: 0.1234567890123456 becomes 0.12345678901234501.
# Versions: srsly 2.5.6.
# Users: write probabilities and embeddings with the json module, or store logarithms of small probabilities.
# Source: an old version of ujson is part of the package.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'srsly==2.5.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

import srsly

print("srsly", version("srsly"))
print("guess: a number is written and read as it is, as by the json module")
rows = [{"small": 1e-12, "third": 1 / 3}]
srsly.write_jsonl("rows.jsonl", rows)
with open("rows.jsonl") as file:
    written = json.loads(file.read())
text = "0.1234567890123456"
read = srsly.json_loads(text)
print("seen: given", rows[0], "written", written, "read", text, "as", read)
assert written["small"] == 0 and written["third"] != 1 / 3 and abs(written["third"] - 1 / 3) > 1e-11
assert json.loads(json.dumps(rows)) == rows and json.loads(text) != read
PYTHON
