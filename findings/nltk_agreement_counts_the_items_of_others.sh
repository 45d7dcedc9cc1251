#!/usr/bin/env bash
# Surprise: the agreement of two annotators falls with every item that only others annotated: two who agree about each
#   of their ten items have an observed agreement of 0.5 and kappa 0.43 once two others have annotated ten more.
# Versions: nltk 3.10.4 (AnnotationTask.Ao and kappa_pairwise, which others of its measures use).
# Users: make an AnnotationTask of the items of the two annotators alone, or use alpha(), which knows missing items.
# Source: the sum of the agreements is divided by the number of all items of the task.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nltk==3.10.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from nltk.metrics.agreement import AnnotationTask

print("nltk", version("nltk"))
print("guess: two annotators are compared on the items that both annotated")
first = [(who, item, "pos" if item % 2 else "neg") for who in ("Anna", "Bob") for item in range(10)]
second = [(who, item, "pos" if item % 2 else "neg") for who in ("Carl", "Dora") for item in range(10, 20)]
alone, together = AnnotationTask(first), AnnotationTask(first + second)
agreement = [(round(task.Ao("Anna", "Bob"), 2), round(task.kappa_pairwise("Anna", "Bob"), 2)) for task in (alone, together)]
print("seen: Anna and Bob alone", agreement[0], "beside others", agreement[1], "alpha", together.alpha())
assert agreement == [(1.0, 1.0), (0.5, 0.43)]
PYTHON
