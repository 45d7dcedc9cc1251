#!/usr/bin/env bash
# Surprise: a TemplateProcessing made with single= alone leaves pairs without [CLS] and [SEP], and one whose pair= does not
#   say ":1" gives both texts the segment 0: a pair is encoded without an error, as the model never saw it.
# Versions: tokenizers 0.23.3.
# Users: always give pair="[CLS] $A [SEP] $B:1 [SEP]:1" when building a tokenizer for BERT, and look at tokens and type_ids
#   of one pair; BertProcessing does both by itself.
# Source: the default for pairs is "$A:0 $B:1"; a part without a number has segment 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import tokenizers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import BertProcessing, TemplateProcessing

print("tokenizers", tokenizers.__version__)
print("guess: pairs get the special tokens of the template, or an error says that none was given")
words = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "b"])}
special = [("[CLS]", 1), ("[SEP]", 2)]
makers = {
    "single": TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special),
    "pair": TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special),
    "BertProcessing": BertProcessing(("[SEP]", 2), ("[CLS]", 1)),
}
seen = {}
for name, processor in makers.items():
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.post_processor = WhitespaceSplit(), processor
    pair = tokenizer.encode("a", "b")
    seen[name] = pair.tokens, pair.type_ids
    print("seen:", name, *seen[name])
assert seen["single"] == (["a", "b"], [0, 1])
assert seen["pair"] == (["[CLS]", "a", "[SEP]", "b", "[SEP]"], [0] * 5) and seen["BertProcessing"][1] == [0, 0, 0, 1, 1]
PYTHON
