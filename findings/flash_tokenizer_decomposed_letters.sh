#!/usr/bin/env bash
# Surprise: an uncased flash-tokenizer knows Müller in one form only: decomposed, as macOS and some PDF files write it,
#   the word is [UNK], and the special tokens are words: "[MASK]" becomes three unknown ones. tokenizers gives "muller"
#   and "[MASK]".
# Versions: flash-tokenizer 1.2.0, tokenizers 0.23.3.
# Users: unicodedata.normalize("NFC", text) before it, and no texts with [MASK] or [SEP] in them; compare ids on texts
#   of your language.
# Source: prj/include/basic_tokenizer.h cleans, splits and lowers letter by letter: no step takes combining marks away,
#   and none looks for special tokens before the text is split.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'flash-tokenizer==1.2.0' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version
from unicodedata import normalize

from flash_tokenizer import BertTokenizerFlash
from tokenizers import BertWordPieceTokenizer

print("flash-tokenizer", version("flash-tokenizer"), "tokenizers", version("tokenizers"))
print("guess: the tokens are those of BERT's tokenizer")
with open("vocab.txt", "w") as file:
    file.write("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\nmuller\n")
flash, bert = BertTokenizerFlash("vocab.txt", do_lower_case=True), BertWordPieceTokenizer("vocab.txt", lowercase=True)
seen = {}
for name, text in {"NFC": normalize("NFC", "Müller"), "NFD": normalize("NFD", "Müller"), "mask": "the [MASK]"}.items():
    seen[name] = (flash.tokenize(text), bert.encode(text, add_special_tokens=False).tokens)
print("seen:", seen)
assert seen["NFC"] == (["muller"], ["muller"]) and seen["NFD"] == (["[UNK]"], ["muller"])
assert seen["mask"] == (["the", "[UNK]", "[UNK]", "[UNK]"], ["the", "[MASK]"])
PYTHON
