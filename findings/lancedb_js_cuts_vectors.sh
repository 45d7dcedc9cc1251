#!/usr/bin/env bash
# Surprise: the JavaScript library of LanceDB takes vectors of another length without a word: longer ones are cut, shorter
#   ones get nulls, or numbers of another row: of the vectors [3, 4, 5, 6] and [7] in a table of two dimensions the second
#   is stored as [7, 6]. Embeddings of another model are mixed in and found. Python's library refuses them.
# Versions: @lancedb/lancedb 0.37.1 (npm), Node 18 or later.
# Users: compare vector.length with the length of the column (listSize in the schema) before createTable, add and mergeInsert.
# Source: vectors are copied into the places of a FixedSizeList of Apache Arrow, whose length is that of the first row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@lancedb/lancedb@0.37.1'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { connect } from "@lancedb/lancedb";

const { version } = JSON.parse(readFileSync("node_modules/@lancedb/lancedb/package.json", "utf8"));
console.log("Node", process.version, "@lancedb/lancedb", version);
console.log("guess: an error, as in Python and as a query of another length gives");
const database = await connect("texts");
const vectors = async (table) => (await table.query().toArray()).map(({ vector }) => [...vector]);
const added = await database.createTable("added", [{ id: 1, vector: [1, 2] }]);
await added.add([{ id: 2, vector: [3, 4, 5, 6] }]);
await added.add([{ id: 3, vector: [7] }]);
const created = await database.createTable("created", [[1, 2], [3, 4, 5, 6], [7], [8, 9]].map((vector, id) => ({ id, vector })));
const query = await added.search([1, 2, 3]).toArray().then(() => "an answer", () => "an error");
const seen = { added: await vectors(added), created: await vectors(created), query };
console.log("seen:", JSON.stringify(seen));
deepStrictEqual(seen.added, [[1, 2], [3, 4], [7, null]]);
deepStrictEqual(seen.created, [[1, 2], [3, 4], [7, 6], [8, 9]]);
deepStrictEqual(seen.query, "an error");
NODE
