#!/usr/bin/env bash
# Surprise: a vector search of Orama leaves out every text whose cosine is below 0.8, without a word: embeddings of BERT
#   models, whose relevant texts often have a cosine of 0.4 to 0.7, find nothing, and a hybrid search is one of words alone.
# Versions: @orama/orama 3.1.18 (npm), Node 18 or later.
# Users: pass similarity: 0 with each search (and hybrid search), and cut by limit or by a threshold that fits the model.
# Source: the option similarity is 0.8 unless given, also where a limit is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts '@orama/orama@3.1.18'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { create, insert, search, searchVector } from "@orama/orama";

console.log("Node", process.version, "@orama/orama", JSON.parse(readFileSync("node_modules/@orama/orama/package.json", "utf8")).version);
console.log("guess: a search with a limit of 3 gives the 3 nearest texts, the best of them first");
const store = create({ schema: { text: "string", embedding: "vector[3]" } });
const cosines = { "the answer": 0.78, "a related text": 0.6, "another text": 0.2 };
for (const [text, cosine] of Object.entries(cosines)) await insert(store, { text, embedding: [cosine, Math.sqrt(1 - cosine ** 2), 0] });
const vector = { value: [1, 0, 0], property: "embedding" };
const texts = (found) => found.hits.map((hit) => hit.document.text);
const seen = {
  vector: texts(await searchVector(store, { vector, limit: 3 })),
  hybrid: texts(await search(store, { mode: "hybrid", term: "unknown", vector, limit: 3 })),
  "similarity 0": texts(await searchVector(store, { vector, limit: 3, similarity: 0 })),
};
console.log("cosines:", cosines);
console.log("seen:", seen);
deepStrictEqual(seen, { vector: [], hybrid: [], "similarity 0": Object.keys(cosines) });
NODE
