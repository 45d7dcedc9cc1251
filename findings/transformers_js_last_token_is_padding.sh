#!/usr/bin/env bash
# Surprise: pooling "last_token" of transformers.js takes the last position of the batch: the embedding of a text beside a
#   longer one is that of [PAD], the same for all shorter texts, where alone it is that of its own last token.
# Versions: @huggingface/transformers 4.3.2 (npm), Node 18 or later.
# Users: set tokenizer.padding_side = "left" for models that pool the last token, or call with one text at a time; compare
#   the embedding of a short text alone and in a batch.
# Source: the result is sliced at -1 without a look at the attention mask, which pooling "mean" does look at. The model here
#   is a function that gives each token a vector of its own.
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
import { BertTokenizer, env, FeatureExtractionPipeline, Tensor } from "@huggingface/transformers";

console.log("Node", process.version, "@huggingface/transformers", env.version);
console.log("guess: the embedding of a text is the same alone and beside a longer text");
const words = ["good", "bad", "film"];
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
const model = async ({ input_ids: ids }) => {
  const vectors = [...ids.data].flatMap((id) => [Number(id), 1]);
  return { last_hidden_state: new Tensor("float32", vectors, [...ids.dims, 2]) };
};
const extractor = new FeatureExtractionPipeline({ task: "feature-extraction", model, tokenizer });
const embed = async (texts, pooling) => (await extractor(texts, { pooling })).tolist();
const texts = ["good", "bad film", "good good bad film"];
const alone = (await Promise.all(texts.map((text) => embed(text, "last_token")))).flat();
const batch = await embed(texts, "last_token");
tokenizer.padding_side = "left";
const left = await embed(texts, "last_token");
console.log("seen: each alone", alone, "in a batch", batch, "padded on the left", left, "[SEP] is 3, [PAD] is 0");
deepStrictEqual(alone, [[3, 1], [3, 1], [3, 1]]);
deepStrictEqual(batch, [[0, 1], [0, 1], [3, 1]]);
deepStrictEqual(left, alone);
NODE
