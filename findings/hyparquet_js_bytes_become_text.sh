#!/usr/bin/env bash
# Surprise: a column of bytes is decoded as text: embeddings, images and packed bits come back with U+FFFD in the place
#   of every byte that is not UTF-8, and cannot be recovered. Columns of bytes of a fixed length are not decoded.
# Versions: hyparquet 1.33.0 (npm), pyarrow 26.0.1, Node 18 or later.
# Users: pass utf8: false; columns of the type string are decoded all the same.
# Source: utf8 is true by default, and is meant for files of writers that did not mark their strings.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1' 'numpy==2.4.6'
cd "$work"
cat > package.json <<'END'
{"private": true}
END
npm install --silent --no-fund --no-audit --ignore-scripts 'hyparquet@1.33.0'
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import pyarrow as pa
import pyarrow.parquet

print("pyarrow", pa.__version__)
print("guess: JavaScript reads the bytes that Python wrote")
vector = np.array([0.1, -0.2, 0.3], "<f4").tobytes()
columns = {"vector": pa.array([vector], pa.binary()), "fixed": pa.array([vector], pa.binary(12)), "text": pa.array(["Müller"])}
pa.parquet.write_table(pa.table(columns), "vectors.parquet")
print("written:", vector)
PYTHON
cat > read.mjs <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";

const { version } = JSON.parse(readFileSync("node_modules/hyparquet/package.json", "utf8"));
const file = await asyncBufferFromFile("vectors.parquet");
const [plain] = await parquetReadObjects({ file });
const [bytes] = await parquetReadObjects({ file, utf8: false });
const numbers = (row, name) => Array.from(new Float32Array(row[name].slice().buffer), (number) => number.toFixed(1));
console.log("hyparquet", version, "seen:", plain, "with utf8: false", bytes);
deepStrictEqual([typeof plain.vector, plain.vector.includes("\ufffd"), plain.text], ["string", true, "Müller"]);
deepStrictEqual([numbers(plain, "fixed"), numbers(bytes, "vector"), bytes.text], [["0.1", "-0.2", "0.3"], ["0.1", "-0.2", "0.3"], "Müller"]);
NODE
node read.mjs
