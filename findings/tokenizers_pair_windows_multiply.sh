#!/usr/bin/env bash
# Surprise: a long pair cut with "longest_first" overflows into every combination of a piece of the first text with a
#   piece of the second: the number of windows is the product, not the sum.
# Versions: tokenizers 0.23.3 (return_overflowing_tokens of transformers' tokenizers uses it).
# Users: for pairs with windows use "only_second" (or "only_first") so that one text stays whole. With "longest_first"
#   expect memory and time to grow with the product of the two lengths.
# Source: truncation splits each text on its own, and the post-processor then pairs each overflow of one with each of the other.
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
print("guess: two texts of 512 words in windows of 64 give about 2 * 512 / 64 = 16 windows")
tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.enable_truncation(64, strategy="longest_first")
counts = {}
for words in (128, 256, 512):
    encoding = tokenizer.encode("a " * words, "a " * words)
    counts[words] = 1 + len(encoding.overflowing)
tokenizer.enable_truncation(64, strategy="only_second")
single = 1 + len(tokenizer.encode("a " * 32, "a " * 512).overflowing)
print("seen: windows by words of each text:", counts, "; with only_second and a first text of 32 words:", single)
assert counts == {128: 16, 256: 64, 512: 256} and single == 16
PYTHON
