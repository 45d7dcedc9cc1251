#!/usr/bin/env bash
# Surprise: single_word=True of an added token is ignored by the JavaScript library of Hugging Face: a domain word is
#   found inside other words, and their rest becomes [UNK]. Python reads the same tokenizer.json as it says.
# Versions: @huggingface/tokenizers 0.2.0 (transformers.js 4 uses it), tokenizers 0.23.3, Node 18 or later.
# Users: compare ids of ordinary texts in both before serving a model with added words in the browser; add words to
#   the WordPiece vocabulary instead.
# Source: the JavaScript splitter looks for the content of added tokens only; lstrip, rstrip and normalized are
#   obeyed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts '@huggingface/tokenizers@0.2.0'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: one tokenizer.json, one list of tokens")
words = ["[UNK]", "a", "covidien", "pump", "new", "##ien"]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
tokenizer.add_tokens([AddedToken("covid", single_word=True, normalized=True)])
tokenizer.save("tokenizer.json")
with open("python.json", "w") as file:
    json.dump({text: tokenizer.encode(text).tokens for text in ("new covid", "a covidien pump")}, file)
PYTHON
node --input-type=commonjs - <<'NODE'
const { readFileSync } = require("fs");
const { strictEqual } = require("assert");
const { Tokenizer } = require("@huggingface/tokenizers");
const read = (name) => JSON.parse(readFileSync(name, "utf8"));
const tokenizer = new Tokenizer(read("tokenizer.json"), {});
console.log("Node", process.version, "@huggingface/tokenizers", read("node_modules/@huggingface/tokenizers/package.json").version);
const python = read("python.json");
for (const text of Object.keys(python)) console.log("seen:", text, "Python", python[text].join(" "), "JavaScript", tokenizer.encode(text).tokens.join(" "));
strictEqual(tokenizer.encode("new covid").tokens.join(), python["new covid"].join());
strictEqual(python["a covidien pump"].join(), "a,covidien,pump");
strictEqual(tokenizer.encode("a covidien pump").tokens.join(), "a,covid,[UNK],pump");
NODE
