#!/usr/bin/env bash
# Surprise: RoFormerTokenizer splits by another vocabulary, depending on the file that it is read from: from vocab.txt it
#   knows no word and splits Chinese words that stand in the vocabulary into characters, from the tokenizer.json that it
#   saves itself it keeps them. The ids of a text change by saving and loading.
# Versions: transformers 5.20.0 (the class is the same in 5.24.0), rjieba 0.2.2, tokenizers of their requirements.
# Users: compare the tokens of one Chinese sentence with the vocabulary; load a repository that has vocab.txt alone once, save
#   it, and use what was saved.
# Source: words are split in Python before tokenizer.json takes over, by whether the vocabulary holds them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv "$work/venv"
venv/bin/pip install --quiet 'transformers==5.20.0' 'rjieba==0.2.2'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from pathlib import Path

import transformers
from transformers import RoFormerTokenizer

print("transformers", transformers.__version__)
print("guess: the same tokens from vocab.txt and from what save_pretrained writes")
words = "[PAD] [UNK] [CLS] [SEP] [MASK] 今 天 气 非常 非 常 好 。".split()
Path("model").mkdir(exist_ok=True)
Path("model/vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
first = RoFormerTokenizer.from_pretrained("model")
before = first.tokenize("今天非常好。")
first.save_pretrained("saved")
after = RoFormerTokenizer.from_pretrained("saved").tokenize("今天非常好。")
print(f"seen: {before} from vocab.txt, {after} after saving")
assert before == ["今", "天", "非", "常", "好", "。"]
assert after == ["今", "天", "非常", "好", "。"]
PYTHON
