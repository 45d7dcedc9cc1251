#!/usr/bin/env bash
# Surprise: reading a bill of materials of a model and writing it again, to add a component for example, loses what makes
#   it one: the model card, the data of a data set and the annotations are gone, without an error or a warning, and the
#   result is valid.
# Versions: cyclonedx-python-lib 11.12.0.
# Users: change such files as JSON, and validate the result; compare the keys of both files after any tool that rewrites
#   one.
# Source: the library has no classes for modelCard, data, formulation, annotations and declarations, and from_json leaves
#   out what it has no class for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'cyclonedx-python-lib[json-validation]==11.12.0'
cd "$work"
venv/bin/python -W error - <<'PYTHON'
import json
from importlib.metadata import version

from cyclonedx.model.bom import Bom
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

print("cyclonedx-python-lib", version("cyclonedx-python-lib"))
print("guess: what the standard has and the library does not know is kept, or refused")
card = {
    "modelParameters": {"task": "text-classification", "datasets": [{"ref": "reviews"}]},
    "quantitativeAnalysis": {"performanceMetrics": [{"type": "accuracy", "value": "0.93"}]},
    "considerations": {"technicalLimitations": ["English only"]},
}
model = {"type": "machine-learning-model", "bom-ref": "model", "name": "bert", "version": "1", "modelCard": card}
data = {"type": "data", "bom-ref": "reviews", "name": "reviews", "data": [{"type": "dataset", "classification": "public"}]}
note = {"text": "checked", "timestamp": "2026-01-01T00:00:00Z", "subjects": ["model"], "annotator": {"individual": {"name": "A"}}}
written = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": [model, data], "annotations": [note]}
validator = JsonStrictValidator(SchemaVersion.V1_6)
assert validator.validate_str(json.dumps(written)) is None
text = make_outputter(Bom.from_json(written), OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
assert validator.validate_str(text) is None
read = json.loads(text)
lost = {part["bom-ref"]: sorted(set(part) - set(new)) for part in written["components"] for new in read["components"] if part["bom-ref"] == new["bom-ref"]}
print("seen: keys lost", lost, "of the file", sorted(set(written) - set(read)))
assert lost == {"model": ["modelCard"], "reviews": ["data"]} and set(written) - set(read) == {"annotations"}
PYTHON
