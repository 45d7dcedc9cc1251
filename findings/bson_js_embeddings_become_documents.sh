#!/usr/bin/env bash
# Surprise: an embedding as a Float32Array, the form in which models return it, becomes a document with the keys "0", "1" and
#   on, not an array or a binary value: Python reads a dict. An ArrayBuffer and a Set of labels become empty documents, their
#   content is lost. Nothing is said. A Uint8Array is a binary value.
# Versions: bson 7.3.4 (npm; the serialiser of MongoDB's driver for Node), pymongo 4.20.1 (reads), Node 20.19 or later.
# Users: Binary.fromFloat32Array(vector), which pymongo reads with as_vector(), or Array.from(vector); Array.from(set).
# Source: objects without a rule of their own are written key by key; only Uint8Array and Map have one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pymongo==4.20.1'
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'bson@7.3.4'
node --input-type=module - <<'NODE'
import { readFileSync, writeFileSync } from "node:fs";
import { Binary, serialize } from "bson";

console.log("Node", process.version, "bson", JSON.parse(readFileSync("node_modules/bson/package.json", "utf8")).version);
console.log("guess: an array of numbers or a binary value, as with Uint8Array, or an error");
const vector = new Float32Array([0.5, -1, 2]);
writeFileSync("text.bson", serialize({
  vector, buffer: vector.buffer, labels: new Set(["neg", "pos"]), bytes: new Uint8Array([1, 2]),
  array: Array.from(vector), binary: Binary.fromFloat32Array(vector),
}));
NODE
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import pathlib

import bson
import pymongo

seen = bson.decode(pathlib.Path("text.bson").read_bytes())
seen["binary"] = seen["binary"].as_vector().data
print("seen: pymongo", pymongo.version, "reads", seen)
assert seen["vector"] == {"0": 0.5, "1": -1, "2": 2} and seen["buffer"] == seen["labels"] == {} and seen["bytes"] == b"\1\2"
assert seen["array"] == seen["binary"] == [0.5, -1, 2]
PYTHON
