#!/usr/bin/env bash
# Surprise: msgspec refuses 3.0 for an int field, though the JSON Schema that it makes for the same type accepts 3.0, and
#   pydantic takes it. Python's json module writes a whole float that way.
# Versions: msgspec 0.22.0, jsonschema 4.26.0, pydantic 2.14.4.
# Users: a request that passes a validator of your published schema may still be refused: say so in the description, or
#   decode with strict=False and check.
# Source: JSON Schema calls any number without a fraction an integer; msgspec decides by how the number is written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'msgspec==0.22.0' 'jsonschema==4.26.0' 'pydantic==2.14.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import jsonschema
import msgspec
import pydantic

print("msgspec", version("msgspec"), "jsonschema", version("jsonschema"), "pydantic", pydantic.VERSION)
print("guess: what the schema of a type accepts, the decoder of the type accepts")


class Request(msgspec.Struct):
    top_k: int


schemas, components = msgspec.json.schema_components([Request])
body = b'{"top_k": 3.0}'
valid = jsonschema.Draft202012Validator(components["Request"]).is_valid({"top_k": 3.0})
by_pydantic = pydantic.TypeAdapter(int).validate_json("3.0")
try:
    msgspec.json.decode(body, type=Request)
    raise SystemExit("changed: msgspec takes 3.0 for an int")
except msgspec.ValidationError as error:
    print("seen: schema", components["Request"]["properties"], "accepts:", valid, "; msgspec:", error)
lax = msgspec.json.decode(body, type=Request, strict=False)
print("seen: pydantic gives", by_pydantic, "; msgspec with strict=False", lax)
assert valid and by_pydantic == 3 and lax.top_k == 3
PYTHON
