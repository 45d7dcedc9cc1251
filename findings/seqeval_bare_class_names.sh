#!/usr/bin/env bash
# Surprise: tags without a B- or I- prefix are read by their first letter: ORG is "outside" (O), LOC and EVENT end an
#   entity (L, E), PER becomes "ER". A perfect prediction of organisations scores 0.
# Versions: seqeval 1.2.2 (only a warning says that a tag looks wrong).
# Users: add B-/I- prefixes before scoring, and check that the report has a row for each class.
# Source: get_entities takes the first character as the scheme's prefix and what follows a hyphen, or else the rest, as type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'seqeval==1.2.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities

warnings.simplefilter("ignore")
print("seqeval", version("seqeval"))
print("guess: each run of equal tags is an entity of that type; a perfect prediction has F1 = 1")
tags = ["PER", "PER", "O", "ORG", "O", "LOC"]
print("seen:", tags, "->", get_entities(tags))
perfect = float(f1_score([["O", "ORG", "ORG"]], [["O", "ORG", "ORG"]]))
print("seen: F1 of a perfect prediction of ORG:", perfect)
assert get_entities(tags) == [("ER", 0, 1), ("OC", 5, 5)] and perfect == 0
PYTHON
