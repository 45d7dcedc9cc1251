#!/usr/bin/env bash
# Surprise: a label that is not among the class names is taken for a class number if it looks like one: "02" becomes the
#   third class, "-1" becomes "no label", and only other unknown names raise an error.
# Versions: datasets 5.2.0.
# Users: compare the set of label strings with the names yourself before casting a column to ClassLabel; ratings,
#   postal codes and typing errors are the usual victims.
# Source: ClassLabel falls back from the name to int(name), and checks only that the number is in range (-1 is).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import datasets
from datasets import ClassLabel, Dataset

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
print("guess: any string that is not a class name raises an error")
names = ClassLabel(names=["bad", "middling", "good"])
column = list(Dataset.from_dict({"label": ["good", "02", "1", "-1"]}).cast_column("label", names)["label"])
try:
    names.str2int("great")
    raise SystemExit("changed: an unknown name is taken")
except ValueError as error:
    print("seen:", error)
print("seen: 'good', '02', '1', '-1' become", column, "although only the first is a class name")
assert column == [2, 2, 1, -1]
PYTHON
