#!/usr/bin/env bash
# Surprise: a column that map() overwrites is cast back to its old type where that is possible: f"{id:03d}" stays the
#   number 7, a label made of a score (score > 0.5) stays a float, and the texts "1" and "0" for a class column become
#   class numbers. Where it is not possible the column gets the new type, so the type depends on the values.
# Versions: datasets 5.2.0.
# Users: write results to a column of another name, or pass features= to map(); look at dataset.features afterwards:
#   float labels make a classifier train on regression or on several labels.
# Source: the writer tries the features of the input first and falls back on the type of the values if that fails.
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
print("guess: a column holds what the function returned for it")
datasets.disable_progress_bars()
classes = datasets.ClassLabel(names=["neg", "pos"])
cases = {
    "ids": (datasets.Value("int64"), [7, 8], lambda value: f"{value:03d}"),
    "labels": (datasets.Value("float64"), [0.2, 0.7], lambda value: int(value > 0.5)),
    "stars": (classes, [0, 1], lambda value: "10"[value]),
    "hashes": (datasets.Value("int64"), [16, 17], lambda value: f"{value:x}"),
    "other hashes": (datasets.Value("int64"), [16, 26], lambda value: f"{value:x}"),
}
seen = {}
for name, (kind, values, function) in cases.items():
    data = datasets.Dataset.from_dict({"x": values}, features=datasets.Features({"x": kind}))
    data = data.map(lambda row, function=function: {"x": function(row["x"])}, new_fingerprint=name.replace(" ", "-"))
    seen[name] = [function(value) for value in values], data["x"][:]
print("seen: returned and held", seen)
assert seen["ids"] == (["007", "008"], [7, 8]) and seen["stars"] == (["1", "0"], [1, 0])
assert seen["labels"] == ([0, 1], [0, 1]) and all(isinstance(label, float) for label in seen["labels"][1])
assert seen["hashes"] == (["10", "11"], [10, 11]) and seen["other hashes"] == (["10", "1a"], ["10", "1a"])
PYTHON
