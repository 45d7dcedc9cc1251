#!/usr/bin/env bash
# Surprise: the parser that keeps large ids also turns every fraction of more than 15 characters into an object, which most
#   numbers of an embedding or probabilities written by Python are: a sum of scores is a string of digits, and typeof of
#   one score is "number" and of the next "object".
# Versions: json-bigint 1.0.0, lossless-json 4.3.3 (npm), Node 18 or later.
# Users: send ids as strings and use JSON.parse; or parse with lossless-json and a parser of numbers that makes a BigInt of
#   large whole numbers only.
# Source: a number whose text is longer than 15 characters, sign and point included, becomes a BigNumber, without a look
#   at whether it is whole.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'json-bigint@1.0.0' 'lossless-json@4.3.3'
"${PYTHON:-python3}" -c '
import json
import math

print(json.dumps({"id": 2**53 + 1, "scores": [0.5, math.sqrt(2) - 1, 1 / 3]}))' > answer.json
node --input-type=module - <<'NODE'
import { deepStrictEqual, strictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import bigint from "json-bigint";
import { isInteger, isSafeNumber, parse } from "lossless-json";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "json-bigint", version("json-bigint"), "lossless-json", version("lossless-json"));
console.log("guess: large whole numbers become another type, and fractions stay numbers");
const text = readFileSync("answer.json", "utf8");
const sum = (values) => values.reduce((total, value) => total + value, 0);
const { id, scores } = bigint.parse(text);
const types = scores.map((score) => typeof score);
console.log("written:", text.trim());
console.log("seen: id", String(id), "types", types, "sum", JSON.stringify(sum(scores)));
const right = parse(text, null, (value) => (isInteger(value) && !isSafeNumber(value) ? BigInt(value) : Number(value)));
console.log("seen: lossless-json id", right.id, "sum", sum(right.scores));
strictEqual(String(id), "9007199254740993");
deepStrictEqual(types, ["number", "object", "object"]);
strictEqual(sum(scores), "0.50.414213562373095150.3333333333333333");
deepStrictEqual([right.id, sum(right.scores).toFixed(6)], [9007199254740993n, "1.247547"]);
NODE
