#!/usr/bin/env bash
# Surprise: of the metadata fields that an index is told to hold, those whose value is 0, false or "" are left out: a filter
#   for the label 0 finds nothing, and neither does one for less than 1. Without a list of fields both find it.
# Versions: vectra 0.12.3 (npm), Node 18 or later.
# Users: store labels and flags as texts ("0", "no"), or leave metadata_config.indexed out.
# Source: a field is copied into the index if its value counts as true in JavaScript.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'vectra@0.12.3'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { LocalIndex } from "vectra";

console.log("Node", process.version, "vectra", JSON.parse(readFileSync("node_modules/vectra/package.json", "utf8")).version);
console.log("guess: a filter finds label 0 as it finds label 1");
const filters = { "label 0": { label: { $eq: 0 } }, "label below 1": { label: { $lt: 1 } }, "label 1": { label: { $eq: 1 } }, "not checked": { checked: { $eq: false } } };
const search = async (name, options) => {
  const index = new LocalIndex(name);
  await index.createIndex({ version: 1, ...options });
  await index.insertItem({ id: "zero", vector: [1, 0], metadata: { label: 0, checked: false } });
  await index.insertItem({ id: "one", vector: [1, 0], metadata: { label: 1, checked: true } });
  const found = {};
  for (const [filter, value] of Object.entries(filters)) found[filter] = (await index.queryItems([1, 0], "", 5, value)).map((one) => one.item.id);
  return found;
};
const indexed = await search("indexed", { metadata_config: { indexed: ["label", "checked"] } });
const plain = await search("plain", {});
console.log("seen: indexed", indexed, "plain", plain);
deepStrictEqual(plain, { "label 0": ["zero"], "label below 1": ["zero"], "label 1": ["one"], "not checked": ["zero"] });
deepStrictEqual(indexed, { "label 0": [], "label below 1": [], "label 1": ["one"], "not checked": [] });
NODE
