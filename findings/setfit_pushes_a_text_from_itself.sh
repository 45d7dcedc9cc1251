#!/usr/bin/env bash
# Surprise: of texts with several labels, or none, SetFit pairs each text that has none with itself and calls the pair unlike
#   (0.0), and so every two texts without a label: the encoder learns to move a text away from itself. Texts with a label are
#   like themselves (1.0).
# Versions: setfit 1.2.0, sentence-transformers 5.3.0, torch 2.13.0.
# Users: give the texts without a label one of their own ("none") for the training of the encoder, or leave them out of it.
# Source: with multi_target_strategy two texts are alike if they share a label, and the pairs include each text with itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sentence-transformers==5.3.0' 'transformers==5.3.0' 'torch==2.13.0' 'datasets==5.2.0' 'evaluate==0.4.6'
"$work/venv/bin/pip" install --quiet --no-deps 'setfit==1.2.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from setfit.sampler import ContrastiveDataset

print("setfit", version("setfit"))
print("guess: a text is like itself, whatever labels it has")
texts = ["bad food", "bad room", "see you", "hello"]


def pairs(labels):
    """Return the pairs of a text with itself, and of the two texts without a label."""
    made = ContrastiveDataset(texts, labels, multilabel=True, sampling_strategy="unique")
    like = {frozenset((pair["sentence_1"], pair["sentence_2"])): pair["label"] for pair in made}
    return {text: like[frozenset([text])] for text in texts}, like[frozenset(texts[2:])]


without = pairs([[1, 0], [0, 1], [0, 0], [0, 0]])
named = pairs([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
print("seen:", without, "with a label for none:", named)
assert without == ({"bad food": 1, "bad room": 1, "see you": 0, "hello": 0}, 0)
assert named == (dict.fromkeys(texts, 1), 1)
PYTHON
