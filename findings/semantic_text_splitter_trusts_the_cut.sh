#!/usr/bin/env bash
# Surprise: with a tokenizer whose file says truncation (that of many embedding models does) the splitter makes one
#   chunk of a whole book: it counts tokens after the cut, so no text is ever too long. And [CLS] and [SEP] are not
#   counted: a chunk of 16 has 18 tokens in the model, which cuts two.
# Versions: semantic-text-splitter 0.33.1, tokenizers 0.23.3.
# Users: call no_truncation() of the tokenizer before it is handed over, pass the model's limit less two, and compare
#   the longest chunk with the limit once.
# Source: the size of a text is the length of its encoding, made without special tokens by the tokenizer as it is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'semantic-text-splitter==0.33.1' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer, models, pre_tokenizers, processors

print(*(f"{name} {version(name)}" for name in ("semantic-text-splitter", "tokenizers")))
print("guess: no chunk has more tokens than the capacity, as the model counts them")
words = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(200))])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
text = " ".join(f"w{number % 200}" for number in range(4000))


def chunks() -> tuple[int, int]:
    """Return the number of chunks of 16 tokens and the words of the longest."""
    found = TextSplitter.from_huggingface_tokenizer(tokenizer, 16).chunks(text)
    return len(found), max(len(chunk.split()) for chunk in found)


plain = chunks()
longest = max(len(tokenizer.encode(chunk).ids) for chunk in TextSplitter.from_huggingface_tokenizer(tokenizer, 16).chunks(text))
tokenizer.enable_truncation(8)
cut = chunks()
print("seen: chunks and words of the longest", plain, "its tokens in the model", longest, "with a tokenizer that truncates", cut)
assert plain == (250, 16) and longest == 18 and cut == (1, 4000)
PYTHON
