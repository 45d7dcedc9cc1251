#!/usr/bin/env bash
# Surprise: LimeTextExplainer cuts words at combining marks: of Hindi single consonants are explained and removed, of
#   decomposed Müller "Mu" and "ller". The texts that the model is asked about are not words any more.
# Versions: lime 0.2.0.1, scikit-learn 1.9.1.
# Users: pass split_expression a function (str.split, or the words of your tokenizer), and normalise to NFC first.
# Source: the default expression \W+ separates at everything that Python's re does not call a word character, marks
#   and vowel signs included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'lime==0.2.0.1' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import unicodedata
from importlib.metadata import version

import numpy as np
from lime.lime_text import LimeTextExplainer

print("lime", version("lime"))
print("guess: the words of the explanation are those between blanks, and the model is asked about texts of such words")
text = "फिल्म बहुत अच्छी है"
asked = set()


def model(texts):
    asked.update(word for one in texts for word in one.split())
    return np.array([[0.5, 0.5]] * len(texts))


def explained(text, **options):
    asked.clear()
    explanation = LimeTextExplainer(random_state=0, **options).explain_instance(text, model, num_features=20, num_samples=50)
    return {str(word) for word, _ in explanation.as_list()}


words = explained(text)
print("seen:", text.split(), "is explained by", sorted(words), "and the model saw", len(asked - set(text.split())), "strings that are no words of it")
assert not words & {"फिल्म", "बहुत", "अच्छी", "है"} and "फ" in words
assert len(asked - set(text.split())) > 10
decomposed = explained(unicodedata.normalize("NFD", "Müller schläft"))
print("seen: decomposed 'Müller schläft' is explained by", sorted(decomposed))
assert decomposed == {"Mu", "ller", "schla", "ft"}
assert explained(text, split_expression=str.split) == set(text.split()) and asked <= set(text.split())
PYTHON
