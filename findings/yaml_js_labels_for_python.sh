#!/usr/bin/env bash
# Surprise: label names that the npm package yaml writes are other values for Python: no and off are False, yes is True,
#   1_000 is 1000, 12:30 is 750 and 2024-01-01 a date; the learning rate 1e-7 is a string. The other package, js-yaml, writes
#   quotes around them, and reads back right.
# Versions: yaml 2.9.1, js-yaml 5.5.0 (npm), PyYAML 6.0.3, Node 18 or later.
# Users: stringify(value, { compat: "yaml-1.1" }), or defaultStringType: "QUOTE_DOUBLE", or JSON, for files that Python reads;
#   write learning rates as 0.0000001.
# Source: yaml writes YAML 1.2, where these are strings, and looks at YAML 1.1, which PyYAML reads, only if told to.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'PyYAML==6.0.3'
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts 'yaml@2.9.1' 'js-yaml@5.5.0'
node --input-type=module - <<'NODE'
import { readFileSync, writeFileSync } from "node:fs";
import { dump } from "js-yaml";
import { stringify } from "yaml";

const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8")).version;
console.log("Node", process.version, "yaml", version("yaml"), "js-yaml", version("js-yaml"));
console.log("guess: what was a string in JavaScript is a string in Python");
const config = { labels: ["no", "yes", "off", "1_000", "12:30", "2024-01-01", "1e3"], rate: 1e-7 };
writeFileSync("yaml.yaml", stringify(config));
writeFileSync("compat.yaml", stringify(config, { compat: "yaml-1.1" }));
writeFileSync("js-yaml.yaml", dump(config));
NODE
venv/bin/python - <<'PYTHON'
import datetime

import yaml

print("PyYAML", yaml.__version__)
labels = ["no", "yes", "off", "1_000", "12:30", "2024-01-01", "1e3"]
seen = {}
for name in ("yaml", "compat", "js-yaml"):
    with open(f"{name}.yaml") as file:
        seen[name] = yaml.safe_load(file)
    print("seen:", name, seen[name])
assert seen["yaml"] == {"labels": [False, True, False, 1000, 750, datetime.date(2024, 1, 1), "1e3"], "rate": "1e-7"}
assert seen["compat"]["labels"] == labels and seen["js-yaml"] == {"labels": labels, "rate": 1e-7}
PYTHON
