#!/usr/bin/env bash
# Surprise: label names given only as label2id are dropped for LABEL_0 and LABEL_1, also when there are three; new names
#   given only as id2label leave the old label2id beside them in the saved config.
# Versions: transformers 5.20.0.
# Users: always pass both maps, and compare them after loading; code that encodes labels by label2id and decodes by
#   id2label otherwise mixes two sets of names.
# Source: the number of labels and both defaults come from id2label alone; a map from the file is kept if not passed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'transformers==5.20.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import transformers
from transformers import AutoConfig, BertConfig

print("transformers", transformers.__version__)
print("guess: one map is derived from the other")
alone = BertConfig(label2id={"bad": 0, "middling": 1, "good": 2})
BertConfig(id2label={0: "neg", 1: "pos"}, label2id={"neg": 0, "pos": 1}).save_pretrained("model")
renamed = AutoConfig.from_pretrained("model", id2label={0: "bad", 1: "good"})
print("seen: label2id alone gives", alone.num_labels, "labels:", alone.id2label, alone.label2id)
print("seen: id2label passed to a saved config:", renamed.id2label, renamed.label2id)
assert alone.num_labels == 2 and alone.id2label == {0: "LABEL_0", 1: "LABEL_1"}
assert alone.label2id == {"LABEL_0": 0, "LABEL_1": 1}
assert renamed.id2label == {0: "bad", 1: "good"} and renamed.label2id == {"neg": 0, "pos": 1}
PYTHON
