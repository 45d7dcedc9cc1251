#!/usr/bin/env bash
# Surprise: the JavaScript library of Hugging Face cuts words at every letter that is not English for the
#   pre-tokeniser Whitespace: the same tokenizer.json makes Müller one token in Python and three in the browser. Of a
#   WordLevel model the id of an unknown word is undefined.
# Versions: @huggingface/tokenizers 0.2.0 (transformers.js 4 uses it), tokenizers 0.23.3, Node 18 or later.
# Users: use BertPreTokenizer in a tokenizer that browsers load too, and compare ids of some texts of your language in
#   both.
# Source: Whitespace is the expression \w+|[^\w\s]+; \w is any letter in Rust and A-Z, a-z, 0-9 and _ in JavaScript.
#   The id is looked up by the word that the vocabulary does not have.
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
from tokenizers import Tokenizer, models, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: one tokenizer.json, one list of tokens")
words = ["[UNK]", "Müller", "kommt", "été", "hello_world"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.save("tokenizer.json")
texts = ["hello_world", "Müller kommt", "été"]
with open("python.json", "w") as file:
    json.dump({text: tokenizer.encode(text).ids for text in texts}, file)
PYTHON
node --input-type=commonjs - <<'NODE'
const { readFileSync } = require("fs");
const { strictEqual } = require("assert");
const { Tokenizer } = require("@huggingface/tokenizers");
const read = (name) => JSON.parse(readFileSync(name, "utf8"));
const tokenizer = new Tokenizer(read("tokenizer.json"), {});
console.log("Node", process.version, "@huggingface/tokenizers", read("node_modules/@huggingface/tokenizers/package.json").version);
const different = [];
for (const [text, python] of Object.entries(read("python.json"))) {
  const ids = tokenizer.encode(text).ids;
  console.log("seen:", text, "Python", python, "JavaScript", ids);
  if (ids.join() !== python.join()) different.push(text);
}
strictEqual(different.join(), "Müller kommt,été");
strictEqual(tokenizer.encode("Müller kommt").tokens.join(), "M,ü,ller,kommt");
strictEqual(tokenizer.encode("Müller kommt").ids[0], undefined);
NODE
