#!/usr/bin/env bash
# Surprise: where one character becomes several (… to three dots, ½ to three characters), only the last piece has its
#   offsets; the ones before it have empty spans. The fast tokenizers give every piece the whole character.
# Versions: sentencepiece 0.2.3, tokenizers 0.23.3.
# Users: an entity or answer that begins with such a piece has no text: widen spans to the next character's end, or take
#   offsets from the fast tokenizer.
# Source: the processor aligns the end of what was normalised, and counts the characters consumed so far.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sentencepiece==0.2.3' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io

import sentencepiece
import tokenizers
from tokenizers import normalizers, pre_tokenizers

print("sentencepiece", sentencepiece.__version__, "tokenizers", tokenizers.__version__)
print("guess: every piece covers the character that it comes from")
model = io.BytesIO()
texts = ["half a cup", "1 or 2 cups", "wait... what"] * 30
settings = {"vocab_size": 30, "hard_vocab_limit": False, "minloglevel": 3}
sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **settings)
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
text = "½"
encoded = processor.encode(text, out_type="offset_mapping")
spans = [(piece, text[start:end]) for piece, (start, end) in zip(encoded["pieces"], encoded["offsets"], strict=True)]
tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"1": 0, "⁄": 1, "2": 2, "?": 3}, unk_token="?"))
tokenizer.normalizer = normalizers.NFKC()
tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
fast = [(token, text[start:end]) for token, (start, end) in zip(*(lambda e: (e.tokens, e.offsets))(tokenizer.encode(text)))]
print("seen: sentencepiece", spans, "; tokenizers", fast)
assert [span for piece, span in spans if piece in "1⁄"] == ["", ""] and spans[-1] == ("2", "½")
assert fast == [("1", "½"), ("⁄", "½"), ("2", "½")]
PYTHON
