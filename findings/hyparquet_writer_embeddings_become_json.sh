#!/usr/bin/env bash
# Surprise: a column of embeddings is written to Parquet as JSON text, not as lists of numbers, and a Float32Array as an
#   object of the keys "0", "1" and on: other readers get strings, and the file is many times larger.
# Versions: hyparquet-writer 0.17.0, hyparquet 1.33.0 (npm), Node 18 or later.
# Users: give a schema with a LIST of FLOAT, and the vectors as plain lists (a Float32Array is refused there); look at the
#   schema of the first file.
# Source: a column without a type gets JSON if its values are objects, which arrays are.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'hyparquet-writer@0.17.0' 'hyparquet@1.33.0'
node --input-type=module - <<'NODE'
import { deepStrictEqual, ok } from "node:assert";
import { readFileSync } from "node:fs";
import { parquetMetadata, parquetReadObjects } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "hyparquet-writer", version("hyparquet-writer"), "hyparquet", version("hyparquet"));
console.log("guess: numbers in lists, as a column of numbers is written as numbers, or an error");
const vector = (seed) => Float32Array.from({ length: 768 }, (_, number) => Math.sin(seed + number));
const columns = {
  number: Float32Array.from([0.5, 1.5]),
  typed: [vector(0), vector(1)],
  list: [[...vector(0)], [...vector(1)]],
};
const seen = {};
for (const [name, data] of Object.entries(columns)) {
  const file = parquetWriteBuffer({ columnData: [{ name, data }], codec: "UNCOMPRESSED" });
  const { type, converted_type: converted } = parquetMetadata(file).schema.at(-1);
  const first = (await parquetReadObjects({ file }))[0][name];
  console.log("seen:", name, type, converted, file.byteLength, "bytes; keys of the first value", Object.keys(first).slice(0, 3), "a list:", Array.isArray(first));
  seen[name] = [type, converted, Array.isArray(first)];
  if (name !== "number") ok(file.byteLength > 4 * 2 * 768 * 4);
}
deepStrictEqual(seen, { number: ["FLOAT", undefined, false], typed: ["BYTE_ARRAY", "JSON", false], list: ["BYTE_ARRAY", "JSON", true] });
NODE
