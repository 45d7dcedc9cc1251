#!/usr/bin/env bash
# Surprise: a word of a query is searched for as a pattern, also within other words: "cat" ranks a text about education and
#   concatenation above "the cat sat", and "node.js" finds "nodexjs". Capital letters are another word.
# Versions: okapibm25 1.4.1 (npm), Node 18 or later.
# Users: lower-case texts and queries and search with a library that has a tokenizer (minisearch), or escape each
#   word and put \b around it.
# Source: a regular expression is made of each word of the query, and its matches in the text are counted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'okapibm25@1.4.1'
node --input-type=module - <<'NODE'
import { strictEqual } from "node:assert";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const BM25 = require("okapibm25").default;
console.log("Node", process.version, "okapibm25", require("okapibm25/package.json").version);
console.log("guess: BM25 counts the words of a text");
const texts = ["education and concatenation", "the cat sat", "a Cat", "a dog"];
const scores = BM25(texts, ["cat"]);
const other = BM25(["nodexjs", "a dog"], ["node.js"]);
console.log("seen: cat in", texts, scores, "node.js in nodexjs", other[0]);
strictEqual(scores[0] > scores[1] && scores[1] > 0 && scores[2] === 0 && other[0] > 0, true);
NODE
