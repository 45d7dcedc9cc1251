#!/usr/bin/env bash
# Surprise: BertweetTokenizer.save_pretrained writes merges that from_pretrained misreads: it leaves out the count of each
#   merge, and reading drops the last part of each line. The saved tokenizer splits every word into characters.
# Versions: transformers 5.20.0 (the class is the same in 5.24.0).
# Users: copy vocab.txt and bpe.codes of the model that a training began with into the folder that the training saved, and
#   compare the tokens of one sentence before and after saving. PhobertTokenizer, of the same format, copies its file.
# Source: the counts come from subword-nmt, which wrote the published bpe.codes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv "$work/venv"
venv/bin/pip install --quiet 'transformers==5.20.0' 'emoji==0.6.0'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from pathlib import Path

import transformers
from transformers import BertweetTokenizer, PhobertTokenizer

print("transformers", transformers.__version__)
print("guess: a tokenizer that is saved and loaded again makes the same tokens")
Path("model").mkdir(exist_ok=True)
Path("model/vocab.txt").write_text("".join(f"{token} 1\n" for token in ("he@@", "l@@", "lo", "hello", "h@@", "e@@", "o")))
Path("model/bpe.codes").write_text("h e 10\nl o</w> 9\nhe l 8\nhel lo</w> 7\n")
seen = {}
for kind in (BertweetTokenizer, PhobertTokenizer):
    tokenizer = kind.from_pretrained("model")
    tokenizer.save_pretrained("saved")
    seen[kind.__name__] = (tokenizer.tokenize("hello"), kind.from_pretrained("saved").tokenize("hello"))
for name, (before, after) in seen.items():
    print(f"seen: {name}: {before} before saving, {after} after")
assert seen["BertweetTokenizer"] == (["hello"], ["h@@", "e@@", "l@@", "l@@", "o"])
assert seen["PhobertTokenizer"] == (["hello"], ["hello"])
PYTHON
