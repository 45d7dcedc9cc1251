#!/usr/bin/env bash
# Surprise: an adapter made without task_type neither trains nor saves the new classification head: each load puts the
#   adapter below another random head.
# Versions: peft 0.21.2, transformers 5.20.0, torch 2.13.0.
# Users: pass task_type="SEQ_CLS" (or "TOKEN_CLS"), or modules_to_save=["classifier"], and look for the head among the
#   adapter's tensors before publishing it.
# Source: the task type is what tells peft that a head named classifier or score is to be kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import BertConfig, BertForSequenceClassification, BertModel

transformers.logging.set_verbosity_error()
print("peft", peft.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
print("guess: the head of a classifier is trained and saved with its adapter")
size = {"vocab_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertModel(BertConfig(**size)).save_pretrained("base")
ids = torch.tensor([[1, 2, 3]])
seen = {}
for name, options in (("without", {}), ("with", {"task_type": "SEQ_CLS"})):
    base = BertForSequenceClassification.from_pretrained("base")
    tuned = get_peft_model(base, LoraConfig(target_modules=["query"], **options))
    tuned.save_pretrained(name)
    trained = any("classifier" in key for key, value in tuned.named_parameters() if value.requires_grad)
    with safe_open(os.path.join(name, "adapter_model.safetensors"), "pt") as tensors:
        saved = any("classifier" in key for key in tensors.keys())
    loads = [PeftModel.from_pretrained(BertForSequenceClassification.from_pretrained("base"), name).eval() for _ in "ab"]
    with torch.no_grad():
        same = torch.equal(loads[0](ids).logits, loads[1](ids).logits)
    seen[name] = {"trained": trained, "saved": saved, "two loads agree": same}
print("seen: task_type", seen)
assert seen["without"] == {"trained": False, "saved": False, "two loads agree": False}
assert seen["with"] == {"trained": True, "saved": True, "two loads agree": True}
PYTHON
