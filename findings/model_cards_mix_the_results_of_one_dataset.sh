#!/usr/bin/env bash
# Surprise: two results for one type of dataset that differ in dataset_name or dataset_args (German and French reviews)
#   are written below the first one: the accuracy on French is an accuracy on German then. What read the card again
#   finds two accuracies of one test.
# Versions: huggingface_hub 2.4.0 (ModelCardData and metadata_eval_result).
# Users: give every test a dataset_config, dataset_split or dataset_revision of its own ("de", "fr"): these tell
#   results apart, name and arguments do not.
# Source: results are grouped by task, type, config, split and revision, and the name and the arguments of the first
#   one are written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface_hub==2.4.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import yaml
from huggingface_hub import EvalResult, ModelCardData

print("huggingface_hub", version("huggingface_hub"))
print("guess: each result stays with the dataset that it was given with")


def datasets(**config: str) -> list:
    """Return the name, the arguments and the values of each dataset of a card with two results."""
    results = [
        EvalResult("text-classification", "reviews", f"Reviews ({language})", "accuracy", value, dataset_args={"language": language},
                   dataset_config=config.get(language))
        for language, value in (("de", 0.9), ("fr", 0.7))
    ]
    card = yaml.safe_load(ModelCardData(model_name="bert", eval_results=results).to_yaml())
    return [
        (one["dataset"]["name"], one["dataset"]["args"]["language"], [metric["value"] for metric in one["metrics"]])
        for one in card["model-index"][0]["results"]
    ]


mixed, apart = datasets(), datasets(de="de", fr="fr")
print("seen: without a config", mixed, "with one", apart)
assert mixed == [("Reviews (de)", "de", [0.9, 0.7])]
assert apart == [("Reviews (de)", "de", [0.9]), ("Reviews (fr)", "fr", [0.7])]
PYTHON
