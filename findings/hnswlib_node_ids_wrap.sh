#!/usr/bin/env bash
# Surprise: hnswlib-node keeps 32 bits of an id: the text 4294967301 is stored as 5 and replaces the text 5 without an error,
#   and a search gives the id 5. Times in milliseconds, hashes and ids of many databases are such numbers. A text is refused.
# Versions: hnswlib-node 3.0.0 (npm, compiled when it is installed), Node 18 or later, a C++ compiler.
# Users: number the texts from 0 and keep a list of their ids beside the index; compare getCurrentCount() with what was added.
# Source: the label is read as an unsigned 32-bit integer, which takes every number modulo 2**32; the index itself has
#   room for 64 bits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit 'hnswlib-node@3.0.0'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import hnswlib from "hnswlib-node";

const { version } = JSON.parse(readFileSync("node_modules/hnswlib-node/package.json", "utf8"));
console.log("Node", process.version, "hnswlib-node", version);
console.log("guess: three texts under the ids that were given, or an error");
const ids = [5, 2 ** 32 + 5, 1764380000000];
const index = new hnswlib.HierarchicalNSW("l2", 1);
index.initIndex(10);
ids.forEach((id, position) => index.addPoint([position], id));
const found = ids.map((_, position) => index.searchKnn([position], 1).neighbors[0]);
console.log("added:", ids, "seen:", index.getCurrentCount(), "texts, ids of the nearest", found);
deepStrictEqual([index.getCurrentCount(), found[1], found[2]], [2, 5, 1764380000000 % 2 ** 32]);
NODE
