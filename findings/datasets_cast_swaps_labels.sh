#!/usr/bin/env bash
# Surprise: casting a ClassLabel column to the same names in another order keeps the numbers: every "neg" is called
#   "pos" from then on. Casting a column of strings to the same feature looks names up.
# Versions: datasets 5.2.0.
# Users: Dataset.align_labels_with_mapping brings numbers into the order of a model; cast_column only for names in the
#   same order.
# Source: a cast of integers to ClassLabel checks that they are in range, and the old feature's names are not asked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import datasets
from datasets import ClassLabel, Dataset

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
print("guess: a cast to a ClassLabel with other numbers converts by name, as a cast from strings does, or is refused")
texts = ["awful", "great", "great"]
strings = Dataset.from_dict({"text": texts, "label": ["neg", "pos", "pos"]})
first = strings.cast_column("label", ClassLabel(names=["neg", "pos"]))
second = first.cast_column("label", ClassLabel(names=["pos", "neg"]))
direct = strings.cast_column("label", ClassLabel(names=["pos", "neg"]))
mapped = first.align_labels_with_mapping({"pos": 0, "neg": 1}, "label")


def names(dataset):
    return dataset.features["label"].int2str(dataset["label"][:])


print("seen:", names(first), "becomes", names(second), "; from strings", names(direct), "; aligned", names(mapped))
assert names(first) == names(direct) == names(mapped) == ["neg", "pos", "pos"]
assert names(second) == ["pos", "neg", "neg"]
PYTHON
