#!/usr/bin/env bash
# Surprise: a text cut by transformers.js loses its last [SEP], and of a pair the whole second text can be cut off:
#   the model gets input that it never saw in training. Python keeps [SEP] and some of both texts.
# Versions: @huggingface/transformers 4.3.2, tokenizers 0.23.3, Node 18 or later.
# Users: cut texts yourself to two (pairs: three) tokens less than max_length, before calling the tokenizer.
# Source: the finished list of ids is cut at max_length, special tokens included; there are no truncation strategies.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts '@huggingface/transformers@4.3.2'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
import os

import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

print("tokenizers", tokenizers.__version__)
print("guess: [CLS], the texts cut to fit, [SEP], as in Python")
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer = normalizers.BertNormalizer()
tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
os.makedirs("models/tiny")
tokenizer.save("models/tiny/tokenizer.json")
with open("models/tiny/tokenizer_config.json", "w") as file:
    json.dump({"tokenizer_class": "BertTokenizer", "model_max_length": 512, "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}, file)
tokenizer.enable_truncation(6)
with open("python.json", "w") as file:
    json.dump([tokenizer.encode("a a a a a a a a").ids, tokenizer.encode("a a a a a", "b b b b b").ids], file)
PYTHON
node --input-type=module - <<'NODE'
import { readFileSync } from "fs";
import { strictEqual } from "assert";
import { AutoTokenizer, env } from "@huggingface/transformers";
env.allowRemoteModels = false;
env.localModelPath = "./models/";
console.log("Node", process.version, "@huggingface/transformers", env.version);
const tokenizer = await AutoTokenizer.from_pretrained("tiny");
const options = { truncation: true, max_length: 6, return_tensor: false };
const one = tokenizer("a a a a a a a a", options).input_ids;
const two = tokenizer("a a a a a", { text_pair: "b b b b b", ...options }).input_ids;
const python = JSON.parse(readFileSync("python.json", "utf8"));
console.log("seen: a long text: Python", python[0].join(" "), "JavaScript", one.join(" "));
console.log("seen: a long pair: Python", python[1].join(" "), "JavaScript", two.join(" "));
strictEqual(python[0].join(" "), "2 5 5 5 5 3");
strictEqual(one.join(" "), "2 5 5 5 5 5");
strictEqual(python[1].join(" "), "2 5 3 6 6 3");
strictEqual(two.join(" "), "2 5 5 5 5 5");
NODE
