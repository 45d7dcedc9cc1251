#!/usr/bin/env bash
# Surprise: exchanging one word changes the whole text: blanks are put around signs, so "10,50" becomes "10, 50", "U.S." is
#   "U. S." and a link falls into seven words, in every augmenter of words and characters. Labels of spans do not fit any more,
#   and a model learns from texts that no user writes.
# Versions: nlpaug 1.1.11.
# Users: pass tokenizer=str.split and reverse_tokenizer=" ".join to each augmenter.
# Source: texts are cut at \W and joined with blanks; a few patterns take some of the blanks away again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nlpaug==1.1.11'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import nlpaug.augmenter.word as naw

print("nlpaug", version("nlpaug"))
print("guess: only the word that is exchanged is another one")
text = "It costs 10,50 today at http://shop.org/a_b, not in the U.S. (yet)."
options = {"tokenizer": str.split, "reverse_tokenizer": " ".join}
default = naw.ReservedAug(reserved_tokens=[["today", "now"]]).augment(text)[0]
split = naw.ReservedAug(reserved_tokens=[["today", "now"]], **options).augment(text)[0]
print("seen:", default, "| with str.split:", split)
assert split == text.replace("today", "now")
assert "10, 50 now at http: / / shop. org / a_b" in default and "U. S." in default
PYTHON
