#!/usr/bin/env bash
# Surprise: a treebank that is read and written again has other values: one with a comma in MISC is taken for a set and
#   written in the order of the alphabet, so that the place 52.5,13.4 becomes 13.4,52.5 and the gloss "the, that" becomes
#   " that,the". Of two comments with one key the first is lost, by conllu too.
# Versions: pyconll 3.3.1, conllu 6.0.0 (keeps what has commas).
# Users: keep commas out of MISC (percent-encode them), give each comment a key of its own, and compare conll() with the text
#   before a treebank is rewritten.
# Source: MISC is read like FEATS, whose values are sets split at commas; comments are a dictionary.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyconll==3.3.1' 'conllu==6.0.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import conllu
import pyconll

print("pyconll", version("pyconll"), "conllu", version("conllu"))
print("guess: a file that is read and written again is the same")
sentence = (
    "# sent_id = 1\n# text = das Haus\n# annotator = first\n# annotator = second\n"
    "1\tdas\tder\tDET\t_\tNumber=Sing\t2\tdet\t_\tGloss=the, that\n"
    "2\tHaus\tHaus\tNOUN\t_\t_\t0\troot\t_\tGeoLoc=52.5,13.4\n\n"
)
lines = sentence.strip().split("\n")
written = pyconll.load_from_string(sentence).conll().strip().split("\n")
lost = [line for line in lines if line not in written]
new = [line for line in written if line not in lines]
other = conllu.parse(sentence)[0].serialize().strip().split("\n")
print("seen: lost", lost, "new", new, "lost by conllu", [line for line in lines if line not in other])
assert lost == ["# annotator = first", *lines[4:]]
assert [line.split("\t")[9] for line in new] == ["Gloss= that,the", "GeoLoc=13.4,52.5"]
assert other == [line for line in lines if line != "# annotator = first"]
PYTHON
