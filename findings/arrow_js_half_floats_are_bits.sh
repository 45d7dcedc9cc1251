#!/usr/bin/env bash
# Surprise: toArray() of half-precision numbers gives their bits as integers (1.0 is 15360), so products of embeddings are
#   garbage without an error; a missing number is 0 in it, and a decimal 1.00 reads 100. get() gives 1, null, and also 100.
# Versions: apache-arrow 21.2.0 (npm), pyarrow 26.0.1, Node 18 or later.
# Users: write float32 for readers in JavaScript, or read each value with get(); send prices and scores as floats or text.
# Source: toArray hands out the buffer as it lies in the file, the map of nulls apart; decimals are raw integers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1' 'numpy==2.4.6'
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'apache-arrow@21.2.0'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import decimal

import numpy as np
import pyarrow as pa

print("pyarrow", pa.__version__)
print("guess: JavaScript reads the numbers that Python wrote, or refuses the type")
vectors = pa.array([[1.0, -0.5], [2.0, 0.25]], pa.list_(pa.float16(), 2))
prices = pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.50")], pa.decimal128(5, 2))
table = pa.table({"half": pa.array(np.float16([1, -0.5])), "vector": vectors, "score": pa.array([0.5, None]), "price": prices})
print("written:", table.to_pydict())
with pa.ipc.new_file("table.arrow", table.schema) as writer:
    writer.write_table(table)
PYTHON
node --input-type=commonjs - <<'NODE'
const { readFileSync } = require("fs");
const { deepStrictEqual } = require("assert");
const { tableFromIPC } = require("apache-arrow");

const table = tableFromIPC(readFileSync("table.arrow"));
const column = (name) => table.getChild(name);
const whole = {
  half: [...column("half").toArray()],
  vector: [...column("vector").get(0).toArray()],
  score: [...column("score").toArray()],
};
const single = {
  half: column("half").get(0), vector: column("vector").get(0).get(0), score: column("score").get(1), price: String(column("price").get(0)),
};
console.log("apache-arrow", JSON.parse(readFileSync("node_modules/apache-arrow/package.json")).version);
console.log("seen: toArray", JSON.stringify(whole), "get", JSON.stringify(single));
deepStrictEqual(whole, { half: [15360, 47104], vector: [15360, 47104], score: [0.5, 0] });
deepStrictEqual(single, { half: 1, vector: 1, score: null, price: "100" });
NODE
