#!/usr/bin/env bash
# Surprise: the JavaScript library that renders chat templates prints values as JSON, not as Jinja in Python does: a list of
#   labels in a prompt is ["good", "bad"] for the browser and ['good', 'bad'] for the server, true is true and True, nothing
#   is the empty text and None, -7 % 3 is -1 and 2. The same template gives a model two prompts, with other tokens.
# Versions: @huggingface/jinja 0.5.11 (npm), Jinja2 3.1.6, Node 18 or later.
# Users: print lists with |tojson or |join in templates that both render, and compare both texts with lists, flags and
#   missing values among the variables.
# Source: values of a template are turned into text by rules of their own, and the remainder is JavaScript's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'Jinja2==3.1.6'
cd "$work"
cat > package.json <<'NPM'
{"private": true}
NPM
npm install --silent --no-fund --no-audit --ignore-scripts '@huggingface/jinja@0.5.11'
cat > templates.json <<'JSON'
["{{ labels }}", "{{ flag }}", "{{ missing }}", "{{ -7 % 3 }}", "{{ labels | join(', ') }}", "{{ {'text': 'a'} }}"]
JSON
cat > variables.json <<'JSON'
{"labels": ["good", "bad"], "flag": true, "missing": null}
JSON
venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

from jinja2.sandbox import ImmutableSandboxedEnvironment

print("Jinja2", version("Jinja2"))
print("guess: one template and the same variables give one text")
with open("templates.json") as templates, open("variables.json") as variables, open("python.json", "w") as file:
    values = json.load(variables)
    json.dump([ImmutableSandboxedEnvironment().from_string(text).render(values) for text in json.load(templates)], file)
PYTHON
node --input-type=module - <<'NODE'
import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";

const read = (name) => JSON.parse(readFileSync(name, "utf8"));
console.log("Node", process.version, "@huggingface/jinja", read("node_modules/@huggingface/jinja/package.json").version);
const templates = read("templates.json");
const script = templates.map((text) => new Template(text).render(read("variables.json")));
const python = read("python.json");
templates.forEach((text, number) => console.log("seen:", text, "JavaScript:", script[number], "Python:", python[number]));
deepStrictEqual(script, ['["good", "bad"]', "true", "", "-1", "good, bad", '{"text": "a"}']);
deepStrictEqual(python, ["['good', 'bad']", "True", "None", "2", "good, bad", "{'text': 'a'}"]);
NODE
