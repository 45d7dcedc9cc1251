#!/usr/bin/env bash
# Surprise: one call with truncation and padding leaves them in the tokenizer, and save_pretrained writes them into
#   tokenizer.json: every reader of that file but transformers cuts all texts from then on.
# Versions: transformers 5.20.0, tokenizers 0.23.3.
# Users: before saving, call tokenizer.backend_tokenizer.no_truncation() and no_padding(); when serving with tokenizers,
#   Rust, Java or OpenVINO, look at "truncation" and "padding" of tokenizer.json.
# Source: the call sets the state of the Rust tokenizer, and the file is a dump of that state.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'transformers==5.20.0' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer
from transformers import BertTokenizer

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
print("guess: arguments of a call do not change the saved tokenizer")
tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])})
tokenizer.save_pretrained("before")
tokenizer("a a a a a", truncation=True, max_length=4, padding="max_length")
tokenizer.save_pretrained("after")
saved = {name: json.loads(Path(name, "tokenizer.json").read_text())["truncation"] for name in ("before", "after")}
tokens = {name: Tokenizer.from_file(f"{name}/tokenizer.json").encode("a a a a a").tokens for name in saved}
print("seen: truncation in the file", saved, "tokens", tokens)
assert saved["before"] is None and saved["after"]["max_length"] == 4
assert len(tokens["before"]) == 7 and len(tokens["after"]) == 4
PYTHON
