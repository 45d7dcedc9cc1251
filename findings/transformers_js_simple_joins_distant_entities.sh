#!/usr/bin/env bash
# Surprise: aggregation_strategy "simple" of transformers.js joins two entities that stand apart: "Anna" and "Bob" of "Anna
#   saw that Bob left" are one person "anna bob" for a model with I-PER tags. Python's "simple" gives two. With B-PER for
#   each name there are two here as well.
# Versions: @huggingface/transformers 4.3.2 (npm), Node 18 or later.
# Users: pass ignore_labels: [] with "simple" and drop the group O afterwards; models trained on the first scheme of CoNLL
#   (I- tags, B- only between neighbours) are the usual victims.
# Source: tokens with the label O are dropped before groups are made, and a group goes on at the next token of its label,
#   wherever that stands. The model here is a function that returns logits; one in an ONNX file gives the same.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@huggingface/transformers@4.3.2'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { BertTokenizer, env, Tensor, TokenClassificationPipeline } from "@huggingface/transformers";

console.log("Node", process.version, "@huggingface/transformers", env.version);
console.log("guess: two persons, anna and bob, as in Python");
const words = ["anna", "saw", "that", "bob", "left"];
const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const vocab = Object.fromEntries([...special, ...words].map((word, id) => [word, id]));
const flags = { special: true, single_word: false, lstrip: false, rstrip: false, normalized: false };
const file = {
  added_tokens: special.map((content, id) => ({ id, content, ...flags })),
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", sep: ["[SEP]", 3], cls: ["[CLS]", 2] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab },
};
const names = { cls_token: "[CLS]", sep_token: "[SEP]", pad_token: "[PAD]", unk_token: "[UNK]", mask_token: "[MASK]" };
const tokenizer = new BertTokenizer(file, { model_max_length: 512, ...names });
const labels = ["O", "B-PER", "I-PER"];
const entities = async (tag, options) => {
  const persons = [BigInt(vocab.anna), BigInt(vocab.bob)];
  const model = async ({ input_ids: ids }) => {
    const scores = [...ids.data].flatMap((id) => labels.map((label) => (label === (persons.includes(id) ? tag : "O") ? 9 : 0)));
    return { logits: new Tensor("float32", scores, [...ids.dims, labels.length]) };
  };
  model.config = { id2label: labels };
  const tagger = new TokenClassificationPipeline({ task: "token-classification", model, tokenizer });
  const found = await tagger("Anna saw that Bob left", { aggregation_strategy: "simple", ...options });
  return found.map(({ word, entity_group: group }) => `${group} ${word}`);
};
const seen = { inside: await entities("I-PER"), begin: await entities("B-PER"), all: await entities("I-PER", { ignore_labels: [] }) };
console.log("seen: I-PER", seen.inside, "B-PER", seen.begin, "I-PER without ignored labels", seen.all);
deepStrictEqual(seen.inside, ["PER anna bob"]);
deepStrictEqual(seen.begin, ["PER anna", "PER bob"]);
deepStrictEqual(seen.all, ["PER anna", "O saw that", "PER bob", "O left"]);
NODE
