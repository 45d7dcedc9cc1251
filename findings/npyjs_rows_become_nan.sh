#!/usr/bin/env bash
# Surprise: dump() of a list of rows writes a .npy file with one NaN for each row: a matrix of embeddings is gone, and
#   the file is valid. Without a type, numbers of a flat list are stored in the least one: [1, 2, 3] is of eight bits.
# Versions: npyjs 1.2.0 (npm), Node 18 or later.
# Users: dump(Float32Array.from(rows.flat()), [rows.length, rows[0].length]), and read one file back.
# Source: each element of the outer list is assigned to an element of a Float32Array, and a list is no number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'npyjs@1.2.0'
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { dump, parse } from "npyjs";

console.log("Node", process.version, "npyjs", JSON.parse(readFileSync("node_modules/npyjs/package.json", "utf8")).version);
console.log("guess: a matrix of two rows, as numpy.save writes it, or an error");
const rows = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]];
const read = async (...given) => {
  const file = await dump(...given);
  const { data, shape, dtype } = parse(file.buffer ?? file);
  return { data: [...data], shape, dtype };
};
const seen = { rows: await read(rows), flat: await read([1, 2, 3]), right: await read(Float32Array.from(rows.flat()), [2, 3]) };
console.log("seen:", JSON.stringify(seen, (_, value) => (Number.isNaN(value) ? "NaN" : value)));
deepStrictEqual(seen.rows, { data: [NaN, NaN], shape: [2], dtype: "f4" });
deepStrictEqual(seen.flat, { data: [1, 2, 3], shape: [3], dtype: "u1" });
deepStrictEqual([seen.right.data.length, seen.right.shape], [6, [2, 3]]);
NODE
