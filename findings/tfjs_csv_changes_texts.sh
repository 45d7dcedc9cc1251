#!/usr/bin/env bash
# Surprise: the CSV reader of TensorFlow.js makes numbers of texts row by row, also in a column declared with dtype "string":
#   of one column of labels 007 is 7, 1e3 is 1000, 0x10 is 16, and neg stays a text. It leaves doubled quotes as they are: of
#   the text say "hi", as every CSV writer writes it, the model gets say ""hi"". Python's csv gives back what was written.
# Versions: @tensorflow/tfjs-data, tfjs-core and tfjs-backend-cpu 4.22.0 (npm), Node 18 or later, Python's csv.
# Users: read with papaparse or csv-parse and pass the rows to tf.data.array; compare a row with a quote.
# Source: what Number() can read is a number unless dtype is int32 or bool, "string" is not looked at; a field is what
#   stands between its outer quotes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@tensorflow/tfjs-core@4.22.0' '@tensorflow/tfjs-backend-cpu@4.22.0' '@tensorflow/tfjs-data@4.22.0'
"${PYTHON:-python3}" - <<'PYTHON'
import csv

rows = [{"text": 'say "hi"', "label": "007"}, {"text": "a, b", "label": "1e3"}, {"text": "c", "label": "0x10"}, {"text": "d", "label": "neg"}]
with open("texts.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, ["text", "label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
with open("texts.csv", newline="") as file:
    assert list(csv.DictReader(file)) == rows
PYTHON
node --input-type=module - <<'NODE' 2>&1 | grep -v -e '^===' -e '^Hi, looks like' -e '^$'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import "@tensorflow/tfjs-backend-cpu";
import { CSVDataset, FileDataSource, version_data as version } from "@tensorflow/tfjs-data";

console.log("Node", process.version, "TensorFlow.js", version);
console.log("guess: texts as written, and labels of one type, at least if it is declared");
const source = new FileDataSource(readFileSync("texts.csv"));
const rows = await new CSVDataset(source).toArray();
const told = await new CSVDataset(source, { columnConfigs: { label: { dtype: "string" } } }).toArray();
const seen = { texts: rows.map(({ text }) => text), labels: rows.map(({ label }) => label), told: told.map(({ label }) => label) };
console.log("seen:", JSON.stringify(seen));
deepStrictEqual(seen.texts, ['say ""hi""', "a, b", "c", "d"]);
deepStrictEqual(seen.labels, [7, 1000, 16, "neg"]);
deepStrictEqual(seen.told, seen.labels);
NODE
