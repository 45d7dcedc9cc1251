#!/usr/bin/env bash
# Surprise: a table of text columns shows other values than it was given: the version "1.10" is printed as 1.1, beside
#   1.9, and the commit "12e5" as 1.2e+06, also by DataFrame.to_markdown of pandas. Whether it happens depends on the
#   other cells of the column.
# Versions: tabulate 0.10.0, pandas 3.1.1.
# Users: pass disable_numparse=True to tabulate and to_markdown for model cards and reports.
# Source: a column whose texts all look like numbers is printed as numbers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tabulate==0.10.0' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pandas

print("tabulate", version("tabulate"), "pandas", pandas.__version__)
print("guess: a text is printed as it is")


def cells(frame: pandas.DataFrame, **options) -> list[list[str]]:
    """Return the cells of the rows of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in frame.to_markdown(index=False, **options).split("\n")[2:]]


versions = pandas.DataFrame({"version": ["1.10", "1.9"], "commit": ["12e5", "7e10"]})
more = pandas.concat([versions, pandas.DataFrame({"version": ["2.0-rc1"], "commit": ["beef"]})])
changed, kept, plain = cells(versions), cells(more), cells(versions, disable_numparse=True)
print("seen:", versions.values.tolist(), "as", changed, "with one more row", kept, "with disable_numparse", plain)
assert changed == [["1.1", "1.2e+06"], ["1.9", "7e+10"]] and kept[:2] == plain == versions.values.tolist()
PYTHON
