#!/usr/bin/env bash
# Surprise: an entity whose word is not in the vocabulary is left out by the pipeline token-classification of
#   transformers.js, however sure the model is, and with ignore_labels: [] too: names with rare letters vanish. Python
#   returns them.
# Versions: @huggingface/transformers 4.3.2 (npm), Node 18 or later.
# Users: call tokenizer and model yourself (AutoModelForTokenClassification) and take the largest logit of each token; a
#   vocabulary with all letters of the texts makes [UNK] rare.
# Source: each token is decoded without special tokens, and one that becomes the empty text is passed over; [UNK] is a
#   special token. The model here is a function that returns logits; one in an ONNX file gives the same.
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
console.log("guess: both names are returned, the unknown one as [UNK]");
const words = ["met", "bob"];
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
const labels = ["O", "B-PER"];
const tagged = [];
const model = async ({ input_ids: ids }) => {
  const scores = [...ids.data].map((id) => (id === 1n || id === BigInt(vocab.bob) ? [0, 9] : [9, 0]));
  tagged.push(scores.map(([outside, person]) => labels[Number(person > outside)]));
  return { logits: new Tensor("float32", scores.flat(), [...ids.dims, labels.length]) };
};
model.config = { id2label: labels };
const tagger = new TokenClassificationPipeline({ task: "token-classification", model, tokenizer });
const found = async (options) => (await tagger("Łukasz met Bob", options)).map(({ word, entity, entity_group: group }) => [word, entity ?? group]);
const seen = { default: await found({}), simple: await found({ aggregation_strategy: "simple" }), all: await found({ ignore_labels: [] }) };
console.log("tags of [CLS], the three words, [SEP]:", tagged[0]);
console.log("seen:", JSON.stringify(seen));
deepStrictEqual(tagged[0], ["O", "B-PER", "O", "B-PER", "O"]);
deepStrictEqual(seen, { default: [["bob", "B-PER"]], simple: [["bob", "PER"]], all: [["met", "O"], ["bob", "B-PER"]] });
NODE
