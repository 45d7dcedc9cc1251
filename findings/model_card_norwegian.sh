#!/usr/bin/env bash
# Surprise: "language: no" of a card is read as False and written back as "language: false"; version 1.10 becomes 1.1.
#   ModelCardData quotes what it writes itself, so the fault shows only with cards written by hand.
# Versions: huggingface_hub 2.4.0.
# Users: quote such values in README.md ('no', '1.10'), and check types after reading a card of others.
# Source: the metadata is YAML 1.1, where an unquoted no, on, off or yes is a boolean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface-hub==2.4.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import huggingface_hub
from huggingface_hub import ModelCard, ModelCardData

print("huggingface_hub", huggingface_hub.__version__)
print("guess: card.data.language is the string 'no', as the library writes it and the hub shows it")
card = ModelCard("---\nlanguage: no\nversion: 1.10\n---\n# Norsk\n")
own = ModelCardData(language="no").to_yaml()
print("seen: read", repr(card.data.language), repr(card.data.version), "; written back", repr(str(card)), "; own", repr(own))
assert card.data.language is False and card.data.version == 1.1 and own == "language: 'no'"
assert "language: false" in str(card)
PYTHON
