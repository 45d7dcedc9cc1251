#!/usr/bin/env bash
# Surprise: contractions.fix, which scripts run over texts before training, rewrites words that are no contractions: "U.S."
#   becomes "YOU.S.", "the shell" "the she will", "a wooden shed" "a wooden she would", and German "im" "i am". Offsets and
#   entities of such texts are lost.
# Versions: contractions 0.1.73.
# Users: pass slang=False, which keeps these words, or leave contractions to the model: BERT was trained on texts that have
#   them.
# Source: by default each contraction is also searched for without its apostrophe (she'll, shell), in any case.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'contractions==0.1.73'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import contractions

print("contractions", version("contractions"))
print("guess: a text without an apostrophe stays as it is")
texts = ["U.S. policy", "the shell broke", "a wooden shed", "use vitamin U", "die Katze im Garten", "as was his wont"]
fixed = [contractions.fix(text) for text in texts]
print("seen:", fixed)
print("slang=False:", [contractions.fix(text, slang=False) for text in [*texts, "she'll come"]])
assert fixed[:2] == ["YOU.S. policy", "the she will broke"]
assert all(text != after for text, after in zip(texts, fixed, strict=True))
assert [contractions.fix(text, slang=False) for text in texts] == texts
assert contractions.fix("she'll come", slang=False) == "she will come"
PYTHON
