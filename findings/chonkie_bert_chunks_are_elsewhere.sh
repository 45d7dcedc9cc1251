#!/usr/bin/env bash
# Surprise: chunks made with a BERT tokenizer are not pieces of the text: they are decoded tokens, lower-cased,
#   without accents, with [UNK], and start_index and end_index point somewhere else.
# Versions: chonkie 1.7.0 (TokenChunker, and RecursiveChunker for long pieces), tokenizers 0.23.3.
# Users: count with the tokenizer but cut with offsets: encode(text).offsets of tokenizers gives both ends of every
#   token. Compare text[start:end] with the chunk once.
# Source: chunks of tokens are decoded, and their lengths are added up as if decoding gave back the text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'chonkie==1.7.0' 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import chonkie
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

print("chonkie", version("chonkie"), "tokenizers", version("tokenizers"))
print("guess: text[chunk.start_index:chunk.end_index] == chunk.text")
words = ["[UNK]", "the", "cafe", "'", "s", "is", "open", ".", "new", "york", "##s"]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.decoder = decoders.WordPiece()
text = "The café's open.  New York's cafés is open.  The Zürich café is open."
chunks = chonkie.TokenChunker(tokenizer, chunk_size=6).chunk(text)
for chunk in chunks:
    print("seen:", repr(chunk.text), "at", (chunk.start_index, chunk.end_index), "where the text has", repr(text[chunk.start_index : chunk.end_index]))
assert not any(chunk.text in text for chunk in chunks[:3])
assert "[UNK]" in "".join(chunk.text for chunk in chunks)
assert sum(text[chunk.start_index : chunk.end_index].lower() == chunk.text for chunk in chunks) == 0
PYTHON
