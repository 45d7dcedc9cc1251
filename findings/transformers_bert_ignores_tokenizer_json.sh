#!/usr/bin/env bash
# Surprise: AutoTokenizer rebuilds the normaliser and the pre-tokeniser of a BERT folder and ignores those that
#   tokenizer.json holds: the tokens differ from those of every other reader of the file.
# Versions: transformers 5.20.0, tokenizers 0.23.3.
# Users: compare AutoTokenizer with Tokenizer.from_file on some texts of your language. If they differ, set
#   "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json, which keeps the file's own pipeline.
# Source: since version 5 BertTokenizer takes only the vocabulary of the file and builds the rest from do_lower_case,
#   strip_accents and tokenize_chinese_chars.
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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
print("guess: the three readers of one tokenizer.json give the same tokens")
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Café", "cafe", "hello!", "hello", "!"]
tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.WhitespaceSplit()
tokenizer.add_special_tokens(names[:5])
Path("model").mkdir()
tokenizer.save("model/tokenizer.json")
Path("model/config.json").write_text(json.dumps({"model_type": "bert"}))
Path("model/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
text = "Café hello!"
raw = Tokenizer.from_file("model/tokenizer.json").encode(text).tokens
generic = PreTrainedTokenizerFast.from_pretrained("model").tokenize(text)
auto = AutoTokenizer.from_pretrained("model").tokenize(text)
print("seen: tokenizers", raw, "PreTrainedTokenizerFast", generic, "AutoTokenizer", auto)
assert raw == generic == ["Café", "hello!"] and auto == ["cafe", "hello", "!"]
PYTHON
