#!/usr/bin/env bash
# Surprise: the writer of csv-stringify makes 1 of true and nothing of false: every text with the label false has an empty
#   cell, as one without a label has, and a program that drops what is missing drops a whole class. A date becomes
#   milliseconds since 1970. fast-csv writes both words.
# Versions: csv-stringify 6.9.0, fast-csv 5.0.8 (npm), Node 18 or later, Python's csv.
# Users: stringify(rows, { cast: { boolean: String, date: (date) => date.toISOString() } }), or labels that are texts.
# Source: the default of cast.boolean is "1" for true and the empty string for false.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'csv-stringify@6.9.0' 'fast-csv@5.0.8'
node --input-type=module - <<'NODE'
import { readFileSync, writeFileSync } from "node:fs";
import { stringify } from "csv-stringify/sync";
import { writeToString } from "fast-csv";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "csv-stringify", version("csv-stringify"), "fast-csv", version("fast-csv"));
console.log("guess: labels true, false and none of three texts can be told apart in Python");
const rows = [true, false, null].map((toxic, number) => ({ text: `text ${number}`, toxic }));
writeFileSync("default.csv", stringify(rows, { header: true }));
writeFileSync("cast.csv", stringify(rows, { header: true, cast: { boolean: String } }));
writeFileSync("fast.csv", await writeToString(rows, { headers: true }));
NODE
"${PYTHON:-python3}" - <<'PYTHON'
import csv

seen = {}
for name in ("default", "cast", "fast"):
    with open(f"{name}.csv", newline="") as file:
        seen[name] = [row["toxic"] for row in csv.DictReader(file)]
    print("seen:", name, seen[name])
assert seen["default"] == ["1", "", ""]
assert seen["cast"] == seen["fast"] == ["true", "false", ""]
PYTHON
