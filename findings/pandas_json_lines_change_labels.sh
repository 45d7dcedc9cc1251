#!/usr/bin/env bash
# Surprise: pandas.read_json turns quoted strings into numbers: the label "007" becomes 7, "1e3" becomes 1000.0, "NaN" is
#   missing; and a number in a column whose name ends in "_at" becomes a date if it is large enough.
# Versions: pandas 3.1.1.
# Users: pass dtype=False and convert_dates=False to get what the file says.
# Source: dtype inference (dtype=True) tries numbers for string columns too; keep_default_dates picks columns by name.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io

import pandas as pd

print("pandas", pd.__version__)
print("guess: a JSON string stays a string, a JSON number a number")
lines = '{"code": "007", "label": "1e3", "rated_at": 1700000000}\n{"code": "08", "label": "NaN", "rated_at": 1700000001}\n'
table = pd.read_json(io.StringIO(lines), lines=True)
exact = pd.read_json(io.StringIO(lines), lines=True, dtype=False, convert_dates=False)
print("seen:", table.to_dict("list"))
print("seen: with dtype=False, convert_dates=False:", exact.to_dict("list"))
assert table["code"].tolist() == [7, 8] and table["label"][0] == 1000.0 and table["label"].isna()[1]
assert table["rated_at"][0] == pd.Timestamp("2023-11-14 22:13:20")
assert exact["code"].tolist() == ["007", "08"] and exact["rated_at"].tolist() == [1700000000, 1700000001]
PYTHON
