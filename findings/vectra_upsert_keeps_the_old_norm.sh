#!/usr/bin/env bash
# Surprise: a vector that replaces another under its id is compared with the length of the old one: its score is no cosine
#   (3.0 here) and it leads every search, or none. Unit vectors are right, so the fault shows with models that do not
#   normalise.
# Versions: vectra 0.12.3 (npm), Node 18 or later.
# Users: normalise vectors before they are stored, or call deleteItem and insertItem in the place of upsertItem.
# Source: upsertItem takes over the new vector and metadata, not the new norm.
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
console.log("guess: a replaced vector scores as one that was inserted");
const search = async (name, change) => {
  const index = new LocalIndex(name);
  await index.createIndex();
  await index.insertItem({ id: "old", vector: [1, 0], metadata: {} });
  await index.insertItem({ id: "near", vector: [3, 1], metadata: {} });
  await change(index, { id: "old", vector: [3, 4], metadata: {} });
  return (await index.queryItems([1, 0], "", 5)).map((found) => [found.item.id, Number(found.score.toFixed(3))]);
};
const replaced = await search("one", (index, item) => index.upsertItem(item));
const inserted = await search("two", async (index, item) => {
  await index.deleteItem(item.id);
  await index.insertItem(item);
});
console.log("seen: upsertItem", replaced, "deleteItem and insertItem", inserted);
deepStrictEqual(inserted, [["near", 0.949], ["old", 0.6]]);
deepStrictEqual(replaced, [["old", 3], ["near", 0.949]]);
NODE
