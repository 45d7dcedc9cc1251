#!/usr/bin/env bash
# Surprise: class_encode_column on a column of class numbers renumbers them from eleven classes on: numbers are sorted
#   as text, so 10 and 11 come before 2, and label 2 becomes 4. With ten classes or less nothing changes. Nothing is
#   said.
# Versions: datasets 5.2.0.
# Users: cast_column with ClassLabel(names=...) keeps numbers as they are; compare column values before and after
#   class_encode_column, which train_test_split(stratify_by_column=...) asks for.
# Source: the values are turned into strings, and the sorted strings are the names of the classes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import datasets

print("datasets", version("datasets"))
print("guess: labels that are class numbers already stay what they are")
datasets.disable_progress_bars()


def encoded(classes: int) -> list[int]:
    """Return the labels 0, 1, 2 and on after they were made a column of classes."""
    return datasets.Dataset.from_dict({"label": list(range(classes))}).class_encode_column("label")["label"][:]


ten, twelve = encoded(10), encoded(12)
names = datasets.Dataset.from_dict({"label": list(range(12))}).class_encode_column("label").features["label"].names
print("seen: of ten classes", ten, "of twelve", twelve, "with the names", names)
assert ten == list(range(10)) and twelve == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3] and names[2] == "10"
PYTHON
