#!/usr/bin/env bash
# Surprise: a field of the type boolean takes the string "false" as true, one of the type long takes 2.7 as 2, and a
#   field whose name is spelled otherwise is left out for its default: a wrong file without an error. The same values in
#   a field that may also be null are refused.
# Versions: fastavro 1.13.1.
# Users: pass validator=True and strict=True to writer where rows come from CSV or JSON; without them the type of a
#   value is looked at only to choose the branch of a union.
# Source: a boolean is written by the truth of the value, a long by its integer part, and a field is fetched by name
#   with its default.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'fastavro==1.13.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io
from importlib.metadata import version

import fastavro
from fastavro.validation import ValidationError

print("fastavro", version("fastavro"))
print("guess: a value that is not of the field's type is an error")


def written(kind, value, **options):
    """Return what is read after writing one value, or the name of the error."""
    fields = [{"name": "x", "type": kind}, {"name": "label", "type": ["null", "string"], "default": None}]
    schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
    file = io.BytesIO()
    try:
        fastavro.writer(file, schema, [{"x": value, "Label": "pos"}], **options)
    except (ValueError, ValidationError) as error:
        return type(error).__name__
    file.seek(0)
    (row,) = fastavro.reader(file)
    return row


values = [("boolean", "false"), ("long", 2.7)]
plain = [written(kind, value) for kind, value in values]
nullable = [written(["null", kind], value) for kind, value in values]
checked = [written(kind, value, validator=True) for kind, value in values] + [written("long", 2, strict=True)]
print("seen:", plain, "with null as a second type", nullable, "validator=True, and strict=True", checked)
assert plain == [{"x": True, "label": None}, {"x": 2, "label": None}]
assert nullable == ["ValueError"] * 2 and checked == ["ValidationError", "ValidationError", "ValueError"]
PYTHON
