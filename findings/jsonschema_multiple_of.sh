#!/usr/bin/env bash
# Surprise: 19.99 is no multiple of 0.01, and 0.3 none of 0.1, for the Python validator; the Rust one says they are.
# Versions: jsonschema 4.26.0, jsonschema-rs 0.60.3.
# Users: do not use multipleOf with fractions for prices or thresholds. Send integers of the smallest unit, or round in code.
# Source: the Python validator divides two doubles and looks for a remainder; the Rust one answers as decimal
#   arithmetic does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'jsonschema==4.26.0' 'jsonschema-rs==0.60.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import jsonschema
import jsonschema_rs

print("jsonschema", version("jsonschema"), "jsonschema-rs", version("jsonschema-rs"))
print("guess: both validators give the answer of arithmetic: valid")
seen = {}
for value, step in ((19.99, 0.01), (4.35, 0.01), (0.3, 0.1), (1.1, 0.1)):
    schema = {"type": "number", "multipleOf": step}
    seen[value, step] = (jsonschema.Draft202012Validator(schema).is_valid(value), jsonschema_rs.is_valid(schema, value))
print("seen: (value, step): (Python, Rust)", seen)
assert list(seen.values()) == [(False, True), (False, True), (False, True), (True, True)]
PYTHON
