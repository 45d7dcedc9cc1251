#!/usr/bin/env bash
# Surprise: the limit of 512 tokens is one of 512 times the median length of a token in characters, and cuts the text before
#   it is tokenised: behind one long link or line of signs nothing is read, and the vector is zero.
# Versions: model2vec 0.10.0, tokenizers 0.23.3.
# Users: pass max_length=None and cut by tokens yourself, above all for web texts and for languages with long words; count
#   zero vectors.
# Source: encode's description speaks of tokens; the cut by characters is meant to make long texts fast.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'model2vec==0.10.0' 'tokenizers==0.23.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

print("model2vec", version("model2vec"), "tokenizers", version("tokenizers"))
print("guess: the first 512 tokens count, whatever their length")
tokenizer = Tokenizer(WordPiece({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3, "film": 4}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
model = StaticModel(np.array([[0, 0], [0, 0], [1, 0], [0, 1], [1, 1]], np.float32), tokenizer)
link = "x" * 2500 + " good film"  # three words
words = "good " * 420 + "bad " * 80  # 500 tokens
vectors = {limit: model.encode([link, words], max_length=limit).round(3).tolist() for limit in (512, None)}
for limit, found in vectors.items():
    print("seen: max_length", limit, "three words", found[0], "500 words", found[1])
assert vectors[512] == [[0, 0], [1, 0]] and vectors[None][0] != [0, 0] and vectors[None][1][1] > 0.1
PYTHON
