#!/usr/bin/env bash
# Surprise: reading a card whose model-index names two models and writing it again gives one model, the last, with the
#   results of both. If their dataset and metric are the same, nothing tells which number belonged to which.
# Versions: huggingface_hub 2.4.0.
# Users: read such cards with metadata_load (plain YAML), not with ModelCard, before changing and saving them.
# Source: the metadata is turned into a flat list of results with one model name, and grouped again when written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface-hub==2.4.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import huggingface_hub
import yaml
from huggingface_hub import ModelCard

print("huggingface_hub", huggingface_hub.__version__)
print("guess: str(ModelCard(text)) holds the same results as text")


def entry(name: str, value: float) -> str:
    return f"""- name: {name}
  results:
  - task: {{type: text-classification}}
    dataset: {{name: Reviews, type: reviews}}
    metrics: [{{type: f1, value: {value}}}]
"""


card = ModelCard("---\nlicense: mit\nmodel-index:\n" + entry("small", 0.5) + entry("large", 0.9) + "---\n# Two models\n")
written = yaml.safe_load(str(card).split("---")[1])["model-index"]
print("seen:", written)
assert [model["name"] for model in written] == ["large"]
assert [metric["value"] for metric in written[0]["results"][0]["metrics"]] == [0.5, 0.9]
PYTHON
