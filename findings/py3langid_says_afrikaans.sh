#!/usr/bin/env bash
# Surprise: a text without evidence is Afrikaans: "ok", "hi", "no" and the empty text all get "af", with the same score
#   of -3.4e38 for every language, and no sign that nothing is known. Only text of digits gets "zxx".
# Versions: py3langid 0.4.0.
# Users: take the answer for unknown if rank() gives its first two languages the same score, and give the language of
#   short texts (queries, chat) yourself.
# Source: no feature of the text is in the model, all languages have the same score, and the first of the alphabet
#   comes first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'py3langid==0.4.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import py3langid

print("py3langid", version("py3langid"))
print("guess: a text that could be of any language is unknown, or of a frequent one")
seen = {text: [(language, float(score)) for language, score in py3langid.rank(text)[:2]] for text in ("ok", "hi", "no", "", "this is an English text")}
print("seen: the first two of the ranking", seen)
for text in ("ok", "hi", "no", ""):
    (first, score), (_, second) = seen[text]
    assert first == py3langid.classify(text)[0] == "af" and score == second
assert seen["this is an English text"][0][0] == "en"
PYTHON
