#!/usr/bin/env bash
# Surprise: the BERT normaliser lowers Greek capitals letter by letter: a word in capitals ends in σ, the same word in
#   small letters in ς, so headlines and texts get different tokens. Python's and JavaScript's lower() end both in ς.
# Versions: tokenizers 0.23.3.
# Users: a vocabulary made with Python's lower() (as the original BERT code has it) knows capitals' words with ς only:
#   lower Greek text yourself, with str.lower(), before tokenising, in training and serving.
# Source: Unicode's rule for the final sigma looks at the neighbours of a letter; the Rust normaliser maps single characters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: 'Λόγος' and 'ΛΌΓΟΣ' have the same tokens, for the tokenizer is uncased")
tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "λογος": 1}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
seen = {text: tokenizer.encode(text).tokens for text in ("Λόγος", "ΛΌΓΟΣ", "ΛΌΓΟΣ".lower())}
print("seen:", seen, "; normalised:", tokenizer.normalizer.normalize_str("ΛΌΓΟΣ"), "; Python:", "ΛΌΓΟΣ".lower())
assert seen == {"Λόγος": ["λογος"], "ΛΌΓΟΣ": ["[UNK]"], "λόγος": ["λογος"]}
PYTHON
