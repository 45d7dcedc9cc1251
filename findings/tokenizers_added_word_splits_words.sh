#!/usr/bin/env bash
# Surprise: a domain word added with add_tokens is also found inside other words, and the rest of such a word is
#   tokenised as if it were a new word.
# Versions: tokenizers 0.23.3 (transformers' tokenizer.add_tokens passes strings on to it).
# Users: add AddedToken(word, single_word=True, normalized=True), never the plain string, and compare the tokens of some
#   thousand ordinary texts before and after.
# Source: added tokens are cut out of the text before the pre-tokeniser sees it; single_word is off unless set.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: after add_tokens(['AI']) the word 'said' is tokenised as before")


def make() -> Tokenizer:
    names = ["[UNK]", "said", "s", "d", "##d", "they"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


before = make().encode("They said").tokens
plain, single = make(), make()
plain.add_tokens(["AI"])
single.add_tokens([AddedToken("AI", single_word=True)])
after, kept = plain.encode("They said"), single.encode("They said").tokens
print("seen: before", before, "after", after.tokens, "word ids", after.word_ids, "with single_word", kept)
assert before == kept == ["they", "said"]
assert after.tokens == ["they", "s", "ai", "d"] and after.word_ids == [0, 1, 2, 3]
PYTHON
