#!/usr/bin/env bash
# Surprise: the masker of texts with a pattern of words, which is the default, explains another text: what follows the
#   last word is left out, so "Is it good?" is explained as "Is it good", and a model that looks at the question mark
#   is explained by what it says without one.
# Versions: shap 0.51.0 (maskers.Text without a tokenizer, or with a pattern).
# Users: compare masker(all features on, text) with the text, and pass a tokenizer as masker, or a function that
#   returns input_ids and offset_mapping to the end.
# Source: the text is cut at what separates words, and the last piece gets no separator.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'shap==0.51.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
import shap

print("shap", version("shap"))
print("guess: with nothing masked the model gets the text, so that the values add up to its answer")


def is_question(texts) -> numpy.ndarray:
    """Return 1 for each text that ends in a question mark."""
    return numpy.array([float(text.endswith("?")) for text in texts])


text = "Is it good?"
masker = shap.maskers.Text()
whole = str(masker(numpy.ones(masker.shape(text)[1], bool), text)[0][0])
explanation = shap.Explainer(is_question, masker, silent=True)([text])
total = float(explanation.base_values[0] + explanation.values[0].sum())
print("seen:", repr(text), "with nothing masked", repr(whole), "answer", is_question([text])[0], "sum of the explanation", total)
assert whole == "Is it good" and is_question([text])[0] == 1 and total == 0
PYTHON
