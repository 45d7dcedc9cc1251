#!/usr/bin/env bash
# Surprise: csvsort, csvjoin and csvjson change cells that they only had to move: the labels 1 and 0 become True and False,
#   the language "no" becomes False, the class "none" is empty, "007" is 7 and 1e3 is 1E+3. csvcut and csvgrep keep them.
# Versions: csvkit 2.2.0, agate 1.14.2.
# Users: pass -I --blanks (no inference, no missing values) to csvsort and csvjoin, and compare the columns before and after.
# Source: agate tries boolean before number for a column, and reads none, n/a, na, null and "." as missing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'csvkit==2.2.0' 'agate==1.14.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import csv
import subprocess
from importlib.metadata import version
from pathlib import Path

print("csvkit", version("csvkit"), "agate", version("agate"))
print("guess: sorting a file moves its rows and changes none")
rows = [["id", "label", "lang", "class", "score"], ["007", "1", "no", "none", "1e3"], ["010", "0", "no", "none", "0.10"]]
with Path("texts.csv").open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)


def run(*command):
    """Return the rows that a command of csvkit writes."""
    done = subprocess.run(["venv/bin/" + command[0], *command[1:], "texts.csv"], check=True, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return list(csv.reader(done.stdout.splitlines()))


inferred, kept, cut = run("csvsort", "-c", "id"), run("csvsort", "-I", "--blanks", "-c", "id"), run("csvcut", "-c", "1-5")
print("seen: csvsort", inferred[1:], "csvsort -I --blanks", kept[1:])
assert kept == cut == rows
assert inferred[1:] == [["7", "True", "False", "", "1E+3"], ["10", "False", "False", "", "0.10"]]
PYTHON
