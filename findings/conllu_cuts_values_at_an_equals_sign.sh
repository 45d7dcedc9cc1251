#!/usr/bin/env bash
# Surprise: a value in MISC or FEATS that holds "=" ends there: a link "?id=5" is read as "?id" and written back so, and
#   of a formula "a=b=c" the "=c" is gone. Nothing is said. pyconll keeps the value.
# Versions: conllu 6.0.0, pyconll 3.3.1.
# Users: keep "=" out of MISC (percent-encode links), or compare parse(text)[0].serialize() with the text before a
#   treebank is rewritten.
# Source: a part is split at every "=", and the second piece is taken for the value; the guidelines of Universal
#   Dependencies forbid only "|" and blanks at the ends.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'conllu==6.0.0' 'pyconll==3.3.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import conllu
import pyconll

print("conllu", version("conllu"), "pyconll", version("pyconll"))
print("guess: a file that is read and written again is the same")
sentence = (
    "# sent_id = 1\n# text = see it\n"
    "1\tsee\tsee\tVERB\t_\t_\t0\troot\t_\tRef=https://example.org/read?id=5|Gloss=look\n"
    "2\tit\tit\tPRON\t_\tCase=Acc\t1\tobj\t_\tGloss=x=y=z\n\n"
)
(parsed,) = conllu.parse(sentence)
seen = [token["misc"] for token in parsed]
kept = [{key: sorted(values) for key, values in token.misc.items()} for token in pyconll.load_from_string(sentence)[0]]
print("seen: conllu", seen, "pyconll", kept)
assert seen == [{"Ref": "https://example.org/read?id", "Gloss": "look"}, {"Gloss": "x"}]
assert "Gloss=x\n" in parsed.serialize() and kept[0]["Ref"] == ["https://example.org/read?id=5"] and kept[1]["Gloss"] == ["x=y=z"]
PYTHON
