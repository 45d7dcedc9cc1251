#!/usr/bin/env bash
# Surprise: alpha of class numbers depends on how the classes are numbered: it is computed for an interval scale
#   unless told otherwise. Class names are refused, numbers never.
# Versions: krippendorff 0.9.0, nltk 3.10.4 (AnnotationTask, the same data, nominal).
# Users: pass level_of_measurement="nominal" for class labels, and name it beside the number.
# Source: the default is "interval": the disagreement of two annotators is the square of the difference of their
#   numbers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'krippendorff==0.9.0' 'nltk==3.10.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import krippendorff
from nltk.metrics.agreement import AnnotationTask

print("krippendorff", version("krippendorff"), "nltk", version("nltk"))
print("guess: renumbering the classes changes nothing, and alpha is that of nltk")
annotations = [["neg", "neg", "neu", "neu", "pos", "pos", "neg", "neu"], ["neg", "neu", "neu", "neu", "pos", "neg", "neg", "neu"]]


def alpha(order, **options):
    return round(float(krippendorff.alpha([[order.index(name) for name in row] for row in annotations], **options)), 3)


triples = [(who, item, name) for who, row in enumerate(annotations) for item, name in enumerate(row)]
nltk = round(AnnotationTask(triples).alpha(), 3)
first, second = alpha(["neg", "neu", "pos"]), alpha(["neu", "neg", "pos"])
nominal = {alpha(order, level_of_measurement="nominal") for order in (["neg", "neu", "pos"], ["neu", "neg", "pos"])}
print("seen:", first, "or", second, "by the order of the names; nominal", nominal, "nltk", nltk)
assert first == 0.444 and second not in (first, nltk) and nominal == {nltk}
PYTHON
