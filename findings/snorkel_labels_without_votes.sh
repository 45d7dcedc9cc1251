#!/usr/bin/env bash
# Surprise: with class_balance= the LabelModel of snorkel labels the rows that no labelling function voted for: all get
#   the most frequent class, and predict() promises to abstain. Without class_balance= they are -1, as
#   MajorityLabelVoter says.
# Versions: snorkel 0.10.0, torch 2.13.0.
# Users: drop these rows before predicting (filter_unlabeled_dataframe); they are most of a corpus, and a model that is
#   trained on them learns to answer the most frequent class.
# Source: a row without votes has the class balance as its probabilities, and only a tie is an abstention.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'snorkel==0.10.0' 'torch==2.13.0' 'numpy==2.4.6' 'setuptools==80.10.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
from importlib.metadata import version

import numpy as np
from snorkel.labeling.model import LabelModel, MajorityLabelVoter

logging.disable(logging.WARNING)
print("snorkel", version("snorkel"))
print("guess: a row that nobody voted for is -1 (abstain)")
votes = np.array([[0, 0, -1], [1, 1, -1], [0, -1, 0], [-1, -1, -1], [0, 0, 0], [0, -1, -1]] * 30)
seen = {"majority": MajorityLabelVoter(2).predict(votes)[3]}
for name, balance in {"label model": None, "label model, class_balance": [0.8, 0.2]}.items():
    model = LabelModel(cardinality=2, verbose=False)
    model.fit(votes, seed=0, progress_bar=False, class_balance=balance)
    seen[name] = model.predict(votes, tie_break_policy="abstain")[3]
seen = {name: int(label) for name, label in seen.items()}
print("seen: the row without votes", seen)
assert seen == {"majority": -1, "label model": -1, "label model, class_balance": 0}
PYTHON
