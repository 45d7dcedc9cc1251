#!/usr/bin/env bash
# Surprise: of the five behaviours of the pre-tokeniser Split the JavaScript library of Hugging Face knows two:
#   merged_with_previous, merged_with_next and contiguous are taken for isolated, without a word. The behaviour of
#   Punctuation is ignored too.
# Versions: @huggingface/tokenizers 0.2.0 (transformers.js 4 uses it), tokenizers 0.23.3, Node 18 or later.
# Users: keep to isolated and removed in a tokenizer that browsers load too, and compare ids in both.
# Source: the JavaScript code asks for "removed" and otherwise isolates; its Punctuation groups runs of characters.
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
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

print("tokenizers", tokenizers.__version__)
print("guess: the parts of 'a--b' are the same in both languages")
words = {word: number for number, word in enumerate(["[UNK]", "a", "b", "-", "--", "a-", "-b"])}
cases = []
for make in (lambda behavior: pre_tokenizers.Split(Regex("-"), behavior), pre_tokenizers.Punctuation):
    for behavior in ("isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"):
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = make(behavior)
        file = json.loads(tokenizer.to_str())
        cases.append({"name": f"{file['pre_tokenizer']['type']} {behavior}", "file": file, "tokens": tokenizer.encode("a--b").tokens})
with open("python.json", "w") as file:
    json.dump(cases, file)
PYTHON
node --input-type=commonjs - <<'NODE'
const { readFileSync } = require("fs");
const { strictEqual } = require("assert");
const { Tokenizer } = require("@huggingface/tokenizers");
const read = (name) => JSON.parse(readFileSync(name, "utf8"));
console.log("Node", process.version, "@huggingface/tokenizers", read("node_modules/@huggingface/tokenizers/package.json").version);
const same = [];
for (const { name, file, tokens } of read("python.json")) {
  const seen = new Tokenizer(file, {}).encode("a--b").tokens;
  console.log("seen:", name, "Python", tokens.join(" "), "JavaScript", seen.join(" "));
  if (seen.join() === tokens.join()) same.push(name);
}
strictEqual(same.join(), "Split isolated,Split removed,Punctuation contiguous");
NODE
