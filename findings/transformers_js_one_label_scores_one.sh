#!/usr/bin/env bash
# Surprise: the pipeline text-classification of transformers.js gives the score 1 to every text if the model has one label,
#   as cross-encoders, rerankers and regression models have: good and bad texts are alike. Python's pipeline takes the
#   sigmoid of one logit, and the logit itself for a regression.
# Versions: @huggingface/transformers 4.3.2 (npm), Node 18 or later.
# Users: call tokenizer and model yourself (AutoModelForSequenceClassification) and take logits.sigmoid(); look at the scores
#   of two texts that must differ.
# Source: softmax is applied unless problem_type is multi_label_classification, and the softmax of one number is 1. The
#   model here is a function that returns logits; one in an ONNX file gives the same.
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
import { BertTokenizer, env, Tensor, TextClassificationPipeline } from "@huggingface/transformers";

console.log("Node", process.version, "@huggingface/transformers", env.version);
console.log("guess: the sigmoid of the logit, as in Python: 0.95 for good and 0.05 for bad");
const words = ["good", "bad"];
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
const logits = new Tensor("float32", [3, -3], [2, 1]);
const classify = async (config) => {
  const model = Object.assign(async () => ({ logits }), { config: { id2label: { 0: "LABEL_0" }, ...config } });
  const classifier = new TextClassificationPipeline({ task: "text-classification", model, tokenizer });
  return (await classifier(["good", "bad"])).map(({ score }) => Number(score.toFixed(2)));
};
const seen = { none: await classify({}), regression: await classify({ problem_type: "regression" }) };
const told = await classify({ problem_type: "multi_label_classification" });
console.log("seen: logits", [...logits.data], "scores by problem_type", seen, "multi_label_classification", told);
deepStrictEqual(seen, { none: [1, 1], regression: [1, 1] });
deepStrictEqual(told, [0.95, 0.05]);
NODE
