#!/usr/bin/env bash
# Surprise: the first row decides about a column in the JavaScript library of LanceDB, and what does not fit is stored as
#   something else: the label "neg" behind the label 1 is NaN, "true" behind true is false, also with add() to a table that
#   exists. Names of classes are gone without an error. Python's library refuses such rows.
# Versions: @lancedb/lancedb 0.37.1 (npm), Node 18 or later.
# Users: give createTable a schema of Apache Arrow, and convert labels with String() or Number() before rows are added.
# Source: each value goes to the builder of the column's type, which takes any value for a number or a truth value.
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
console.log("guess: an error, or a column of texts");
const database = await connect("texts");
const rows = (labels) => labels.map((label) => ({ label, vector: [1, 2] }));
const stored = async (name, first, later) => {
  const table = await database.createTable(name, rows(first));
  if (later) await table.add(rows(later));
  return (await table.query().toArray()).map(({ label }) => label);
};
const seen = {
  numbers: await stored("numbers", [1, "neg", "7"]),
  added: await stored("added", [1], ["neg"]),
  flags: await stored("flags", [true, "true", "yes", 1]),
  texts: await stored("texts", ["neg", 1]),
};
console.log("seen:", seen);
deepStrictEqual(seen, { numbers: [1, NaN, 7], added: [1, NaN], flags: [true, false, false, true], texts: ["neg", "1"] });
NODE
