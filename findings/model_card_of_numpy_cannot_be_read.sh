#!/usr/bin/env bash
# Surprise: a metric given as a numpy number makes a card that its own library cannot read again: the file holds a
#   Python object tag, not a number. Saving says nothing.
# Versions: huggingface_hub 2.4.0, numpy 2.4.6, PyYAML 6.0.4.
# Users: pass float(metric) to EvalResult and metadata_eval_result: numpy.mean and pandas hand out numpy numbers,
#   which print like floats.
# Source: the metadata is written with YAML's full dumper, which stores any Python object, and read with the safe
#   loader.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface_hub==2.4.0' 'numpy==2.4.6' 'PyYAML==6.0.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import huggingface_hub
import numpy
import yaml
from huggingface_hub import EvalResult, ModelCard

print("huggingface_hub", huggingface_hub.__version__, "numpy", numpy.__version__, "PyYAML", yaml.__version__)
print("guess: the mean of two scores is written as a number, and the card can be loaded")


def save(value):
    with open("README.md", "w") as file:
        file.write("---\nlicense: mit\n---\n# mine\n")
    card = ModelCard.load("README.md")
    card.data.model_name = "mine"
    card.data.eval_results = [EvalResult("text-classification", "imdb", "IMDb", "accuracy", value)]
    card.save("README.md")


save(float(numpy.mean([0.75, 1.0])))
assert ModelCard.load("README.md").data.eval_results[0].metric_value == 0.875
save(numpy.mean([0.75, 1.0]))
value = next(line.strip() for line in open("README.md") if "value:" in line)
try:
    ModelCard.load("README.md")
    raise SystemExit("changed: the card can be read")
except yaml.constructor.ConstructorError as error:
    print("seen: the file says", repr(value), "and loading it raises", type(error).__name__)
assert "!!python/object" in value, value
PYTHON
