#!/usr/bin/env bash
# Surprise: a private-use character is deleted, not turned into [UNK] or a blank, so its two neighbours become one word.
# Versions: tokenizers 0.23.3.
# Users: bullets and icons that PDF and office files export as U+F0B7 and the like glue words together. Replace them by
#   blanks before the text reaches a BERT tokenizer, and do the same in training.
# Source: clean_text of the BERT normaliser drops every character of Unicode's "other" categories, private use included.
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
print("guess: 'one<U+F0B7>two' gives three words, the middle one [UNK]")
tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "one": 1, "two": 2, "##two": 3}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
encoding = tokenizer.encode("one\uf0b7two")
print("seen:", encoding.tokens, "word ids", encoding.word_ids, "offsets", encoding.offsets)
assert encoding.tokens == ["one", "##two"] and encoding.word_ids == [0, 0]
assert encoding.offsets == [(0, 3), (4, 7)]
PYTHON
