#!/usr/bin/env bash
# Surprise: texts with line breaks in quotes are torn where a block of 1 MB ends: a file with one column gets additional
#   rows, often without an error; one with more columns raises an error, if it is large enough.
# Versions: pyarrow 26.0.1 (pyarrow.csv, and readers built on it such as Ray Data's read_csv).
# Users: pass ParseOptions(newlines_in_values=True) for any file that holds texts, and compare the number of rows.
# Source: blocks are cut at line ends without looking at quotes unless the option says otherwise, which costs speed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io

import pyarrow as pa
import pyarrow.csv

print("pyarrow", pa.__version__)
print("guess: a quoted cell may hold line breaks, as in every CSV reader; else an error")
n_rows = 300_000
data = "text\n" + "".join(f'"a {i}\nb"\n' for i in range(n_rows))
table = pa.csv.read_csv(io.BytesIO(data.encode()))
torn = [text for text in table["text"].to_pylist() if not text.startswith("a ")]
options = pa.csv.ParseOptions(newlines_in_values=True)
whole = pa.csv.read_csv(io.BytesIO(data.encode()), parse_options=options).num_rows
small = pa.csv.read_csv(io.BytesIO("".join(data.splitlines(keepends=True)[:2001]).encode()))["text"].to_pylist()
print(f"seen: {n_rows} rows of one column become {table.num_rows}; {len(torn)} begin in the middle: {torn}")
print("seen: with newlines_in_values", whole, "; the first", len(small), "rows alone are whole")
try:
    pa.csv.read_csv(io.BytesIO(data.replace('"a', '1,"a').replace("text\n", "id,text\n", 1).encode()))
    raise SystemExit("changed: two columns are read")
except pa.ArrowInvalid as error:
    print("seen: two columns raise ArrowInvalid:", str(error)[:60])
assert table.num_rows > n_rows and torn and whole == n_rows
assert len(small) == 1000 and all(text.startswith("a ") for text in small)
PYTHON
