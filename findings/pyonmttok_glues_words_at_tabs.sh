#!/usr/bin/env bash
# Surprise: tabs and line breaks are dropped, and the words beside them become one: "good\tbad\nugly day" is "goodbadugly"
#   and "day", in the modes conservative, aggressive and char. A no-break space and that of Chinese separate words.
# Versions: pyonmttok 1.38.1 (OpenNMT's tokenizer).
# Users: " ".join(text.split()) before tokenizing; texts of several lines and columns of TSV files otherwise lose words.
# Source: control characters are left out of tokens, and only the space separators of Unicode end one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyonmttok==1.38.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pyonmttok

print("pyonmttok", version("pyonmttok"))
print("guess: any white space separates words")
seen = {}
for mode in ("conservative", "aggressive", "char"):
    tokenizer = pyonmttok.Tokenizer(mode, joiner_annotate=True)
    for name, text in (("lines", "good\tbad\nugly day"), ("spaces", "good\u00a0bad\u3000ugly day")):
        seen[mode, name] = tokenizer.detokenize(tokenizer(text)).split()
        print("seen:", mode, repr(text), seen[mode, name], tokenizer(text)[:4])
assert all(words == ["goodbadugly", "day"] for (_, name), words in seen.items() if name == "lines")
assert all(words == ["good", "bad", "ugly", "day"] for (_, name), words in seen.items() if name == "spaces")
PYTHON
