#!/usr/bin/env bash
# Surprise: a token added to a vocabulary whose ids have a hole gets the id of an existing token.
# Versions: tokenizers 0.23.3.
# Users: before add_tokens, check that the ids run from 0 to vocabulary size - 1 (pruned and merged vocabularies often do
#   not); after it, check that no two tokens share an id.
# Source: the id of an added token begins at the number of entries of the vocabulary, not at the greatest id plus one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: the new token gets an id that no token has")
vocabulary = {"[UNK]": 0, "cat": 1, "dog": 3}  # id 2 was pruned
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.add_tokens(["bird"])
ids = tokenizer.encode("dog bird").ids
print("seen: ids of 'dog bird':", ids, "and decoded again:", repr(tokenizer.decode(ids)))
assert ids == [3, 3] and tokenizer.decode([3]) == "bird"
PYTHON
