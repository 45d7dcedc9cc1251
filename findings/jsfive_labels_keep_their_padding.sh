#!/usr/bin/env bash
# Surprise: the reader jsfive returns labels of an HDF5 file with the zero bytes that fill them up: "neg" beside "neutral" is
#   "neg" and four U+0000, looks right when printed, and equals no class name. Ids of 64 bits lose digits. h5wasm returns both
#   as they were written.
# Versions: jsfive 0.4.2, h5wasm 0.10.3 (npm), h5py 3.16.0, numpy 2.4.6, Node 18 or later.
# Users: value.replace(/\0+$/, ""), or write labels as texts of variable length (dtype=object), and ids as texts; or read with
#   h5wasm.
# Source: strings of a fixed length are decoded with their padding, and 64-bit numbers are made of two halves as a double.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'h5py==3.16.0' 'numpy==2.4.6'
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'jsfive@0.4.2' 'h5wasm@0.10.3'
venv/bin/python - <<'PYTHON'
import h5py
import numpy

print("h5py", h5py.__version__)
with h5py.File("texts.h5", "w") as file:
    file["label"] = numpy.array(["neg", "neutral", "pos"], dtype="S7")
    file["id"] = numpy.array([2**53 + 1, 2**62 + 1, 7])
    file["free"] = numpy.array(["neg", "neutral", "pos"], dtype=object)
PYTHON
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import * as h5wasm from "h5wasm/node";
import * as jsfive from "jsfive";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "jsfive", version("jsfive"), "h5wasm", version("h5wasm"));
console.log("guess: the labels neg, neutral, pos, and the ids as written");
const names = ["label", "free", "id"];
const file = new jsfive.File(new Uint8Array(readFileSync("texts.h5")).buffer, "texts.h5");
const [label, free, id] = names.map((name) => [...file.get(name).value]);
await h5wasm.ready;
const other = new h5wasm.File("texts.h5", "r");
const right = names.map((name) => [...other.get(name).value]);
console.log("seen: jsfive", JSON.stringify(label), "free", free, "id", id.map(String), "equal to neg:", label[0] === "neg");
console.log("seen: h5wasm", right.map((values) => values.map(String).join(" ")));
deepStrictEqual(label, ["neg\0\0\0\0", "neutral", "pos\0\0\0\0"]);
deepStrictEqual(free, ["neg", "neutral", "pos"]);
deepStrictEqual(id, [2 ** 53, 2 ** 62, 7]);
deepStrictEqual(right, [["neg", "neutral", "pos"], ["neg", "neutral", "pos"], [9007199254740993n, 4611686018427387905n, 7n]]);
NODE
