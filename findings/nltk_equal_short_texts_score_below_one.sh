#!/usr/bin/env bash
# Surprise: two equal short texts do not get the full score: chrF of "ab" with itself is 0.33 and of "yes" 0.5, and
#   RIBES of one word with itself is 0.0. Answers of one word, labels and names lower a corpus score by the length of
#   the texts alone. sacrebleu gives 100.
# Versions: nltk 3.10.4, sacrebleu 2.6.0.
# Users: compute chrF with sacrebleu, and report exact matches for short answers.
# Source: n-grams up to six letters are averaged, and those that a text is too short for count as 0; RIBES looks at
#   pairs of words.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nltk==3.10.4' 'sacrebleu==2.6.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import sacrebleu
from nltk.translate.chrf_score import sentence_chrf
from nltk.translate.ribes_score import sentence_ribes

print("nltk", version("nltk"), "sacrebleu", version("sacrebleu"))
print("guess: a translation that equals its reference has the greatest score")
chrf = {text: (round(sentence_chrf(text, text), 2), sacrebleu.sentence_chrf(text, [text]).score) for text in ("ab", "yes", "Berlin")}
ribes = {text: sentence_ribes([text.split()], text.split()) for text in ("yes", "yes indeed")}
print("seen: chrF of nltk and of sacrebleu", chrf, "RIBES", ribes)
assert chrf == {"ab": (0.33, 100), "yes": (0.5, 100), "Berlin": (1, 100)} and ribes == {"yes": 0, "yes indeed": 1}
PYTHON
