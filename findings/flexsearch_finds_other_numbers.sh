#!/usr/bin/env bash
# Surprise: a search for the number 456123 also finds "case 123456" and "456 pages, case 123", and ranks the wrong case first:
#   numbers are cut into pieces of three digits. Repeated letters count once: hoping finds hopping, first.
# Versions: flexsearch 0.8.212 (npm), Node 18 or later.
# Users: new Index({ encoder: new Encoder({ numeric: false, dedupe: false }) }), wherever texts hold ids, dates or amounts.
# Source: the default encoder has numeric and dedupe switched on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'flexsearch@0.8.212'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import flexsearch from "flexsearch";

const { version } = JSON.parse(readFileSync("node_modules/flexsearch/package.json", "utf8"));
console.log("Node", process.version, "flexsearch", version);
console.log("guess: a number finds the text that holds it, and no other");
const texts = ["case 123456", "case 456123", "456 pages, case 123", "hopping", "hoping"];
const search = (options) => {
  const index = new flexsearch.Index(options);
  texts.forEach((text, id) => index.add(id, text));
  return ["456123", "hoping"].map((word) => index.search(word).map((id) => texts[id]));
};
const seen = search({});
const exact = search({ encoder: new flexsearch.Encoder({ numeric: false, dedupe: false }) });
console.log("seen: 456123", seen[0], "hoping", seen[1], "told:", exact);
deepStrictEqual(seen, [["case 123456", "case 456123", "456 pages, case 123"], ["hopping", "hoping"]]);
deepStrictEqual(exact, [["case 456123"], ["hoping"]]);
NODE
