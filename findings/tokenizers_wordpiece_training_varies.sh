#!/usr/bin/env bash
# Surprise: training a WordPiece vocabulary twice on the same text gives other ids, and of a larger text other tokens too.
#   BPE, Unigram and WordLevel training repeat exactly.
# Versions: tokenizers 0.23.3.
# Users: a seed does not help: keep the trained tokenizer.json with the model, and never train it again to "get the same
#   one". For a reproducible pipeline train BPE or Unigram.
# Source: pieces with the prefix ## get their ids while a hash map of words is walked, in another order each time, and
#   equal counts are settled by ids (issue 1794 of huggingface/tokenizers).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import random

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

print("tokenizers", tokenizers.__version__)
print("guess: the same text and settings give the same vocabulary")
choice = random.Random(0)
words = ["".join(choice.choice("abcdefghij") for _ in range(choice.randint(2, 8))) for _ in range(5000)]


def train(model: type, trainer: type) -> dict[str, int]:
    tokenizer = Tokenizer(model(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"vocab_size": 300, "special_tokens": ["[UNK]"], "show_progress": False}
    tokenizer.train_from_iterator([" ".join(words)], trainer(**settings))
    return tokenizer.get_vocab()


wordpiece = [train(models.WordPiece, trainers.WordPieceTrainer) for _ in range(5)]
bpe = [train(models.BPE, trainers.BpeTrainer) for _ in range(5)]
ids = [vocabulary == wordpiece[0] for vocabulary in wordpiece[1:]]
tokens = [len(set(vocabulary) ^ set(wordpiece[0])) // 2 for vocabulary in wordpiece[1:]]
print("seen: WordPiece: same ids as the first training", ids, "; tokens of 300 that differ", tokens)
print("seen: BPE: same ids as the first training", [vocabulary == bpe[0] for vocabulary in bpe[1:]])
assert not all(ids) and any(tokens) and all(vocabulary == bpe[0] for vocabulary in bpe)
PYTHON
