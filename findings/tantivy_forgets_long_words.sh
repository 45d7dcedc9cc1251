#!/usr/bin/env bash
# Surprise: a word of 40 bytes or more is not indexed and not found, without a word about it: a SHA-256, a long German
#   word, and a Chinese or Thai sentence of 14 characters, which is one word for the tokenizer.
# Versions: tantivy 0.27.0.
# Users: tokenizer_name="whitespace" for ids, or register a TextAnalyzer without Filter.remove_long; cut Chinese and
#   Thai into n-grams.
# Source: the analysers "default" and "en_stem" remove long words from texts and from queries.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tantivy==0.27.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import hashlib
from importlib.metadata import version

import tantivy

print("tantivy", version("tantivy"))
print("guess: a text that holds exactly the word of the query is found")
words = {
    "short": "release",
    "sha-256": hashlib.sha256(b"weights").hexdigest(),
    "German": "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
    "Chinese": "今天天气很好我们去公园里散步吧",
    "Chinese, 13 characters": "今天天气很好我们去公园散步",
}


def found(tokenizer: str) -> dict[str, int]:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=True, tokenizer_name=tokenizer)
    index = tantivy.Index(builder.build())
    writer = index.writer(15_000_000, 1)
    for word in words.values():
        writer.add_document(tantivy.Document(text=word))
    writer.commit()
    index.reload()
    searcher = index.searcher()
    return {name: searcher.search(index.parse_query(word, ["text"]), 10).count for name, word in words.items()}


seen = {tokenizer: found(tokenizer) for tokenizer in ("default", "en_stem", "whitespace")}
print("seen: texts found", seen)
expected = {name: 0 if name in ("sha-256", "German", "Chinese") else 1 for name in words}
assert seen["default"] == seen["en_stem"] == expected and set(seen["whitespace"].values()) == {1}
PYTHON
