#!/usr/bin/env bash
# Surprise: a text that begins with "=" ("=) thanks", "=> see below") becomes a formula in an Excel file, and pandas
#   reads it back as missing; DataFrame.to_excel says nothing. openpyxl itself cuts a text of more than 32,767
#   characters there without a word, where pandas warns.
# Versions: openpyxl 3.1.5, pandas 3.1.1, numpy 2.4.6.
# Users: write an id beside each text for annotators and join their labels to the original texts by it; put a blank
#   before a leading "=".
# Source: openpyxl/cell/cell.py takes every string that begins with "=" for a formula, which has no value until Excel
#   has computed one, and cuts strings to the greatest length of a cell.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'openpyxl==3.1.5' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import openpyxl
import pandas

print(*(f"{name} {version(name)}" for name in ("openpyxl", "pandas")))
print("guess: texts are read back as they were written, or refused")
texts = ["a" * 40_000, "=) thanks", "=> see below", "fine"]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pandas.DataFrame({"text": texts[1:]}).to_excel("pandas.xlsx", index=False)
table = pandas.read_excel("pandas.xlsx")["text"].tolist()
book = openpyxl.Workbook()
for text in texts:
    book.active.append([text])
book.save("openpyxl.xlsx")
cells = [cell.value for cell in openpyxl.load_workbook("openpyxl.xlsx").active["A"]]
print("seen: written", [len(texts[0]), *texts[1:]], "read by pandas", table, "warnings", len(caught), "length of the first text in openpyxl", len(cells[0]))
assert pandas.isna(table[0]) and pandas.isna(table[1]) and table[2] == "fine" and not caught and len(cells[0]) == 32_767
PYTHON
