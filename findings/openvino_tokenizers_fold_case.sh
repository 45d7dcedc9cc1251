#!/usr/bin/env bash
# Surprise: the converted BERT tokenizer folds case instead of lowering it: the Greek final sigma becomes an ordinary one,
#   so most Greek words get other tokens; the micro sign becomes the Greek letter mu.
# Versions: openvino-tokenizers 2026.4.1.0, openvino 2026.4.1, transformers 5.20.0, tokenizers 0.23.3.
# Users: compare tokens on texts of your language before serving a converted tokenizer; keep the original one for Greek.
# Source: lowering maps a capital letter to its small one; folding maps all forms of a letter to one, final sigma included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'openvino==2026.4.1' 'openvino-tokenizers==2026.4.1.0' 'transformers==5.20.0' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import openvino as ov
import openvino_tokenizers
import tokenizers
import transformers
from transformers import BertTokenizer

print("openvino-tokenizers", openvino_tokenizers.__version__, "transformers", transformers.__version__)
print("guess: a converted tokenizer gives the ids of the original")
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "λόγος", "λογος", "λογοσ", "5", "µm", "μm"]
tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(names)})
converted = ov.compile_model(openvino_tokenizers.convert_tokenizer(tokenizer), "CPU")
seen = {}
for text in ("Λόγος", "5 µm"):
    original = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    by_openvino = tokenizer.convert_ids_to_tokens(converted([text])["input_ids"][0].tolist())
    seen[text] = (original[1:-1], by_openvino[1:-1])
print("seen: text: (transformers, openvino)", seen)
assert seen["Λόγος"] == (["λογος"], ["λογοσ"]) and seen["5 µm"] == (["5", "µm"], ["5", "μm"])
PYTHON
