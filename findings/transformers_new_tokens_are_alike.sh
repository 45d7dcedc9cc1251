#!/usr/bin/env bash
# Surprise: all tokens that resize_token_embeddings adds begin with the same vector, but for a ten-thousandth, although it
#   says that they are drawn from a distribution: a model that does not train its embeddings cannot tell them apart.
# Versions: transformers 5.20.0, torch 2.13.0.
# Users: with LoRA or frozen embeddings pass mean_resizing=False, or set each new row yourself, for example to the mean
#   of the pieces of the word; train the embeddings when adding markers such as [E1] and [E2].
# Source: rows are drawn around the mean of the old ones with a billionth of their covariance.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import torch
import transformers
from transformers import BertConfig, BertModel

transformers.logging.set_verbosity_error()
print("transformers", transformers.__version__, "torch", torch.__version__)
print("guess: new tokens get different vectors, as random as the initial ones")
torch.manual_seed(0)
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
seen = {}
for name, options in (("default", {}), ("mean_resizing=False", {"mean_resizing": False})):
    model = BertModel(BertConfig(vocab_size=500, **size))
    model.resize_token_embeddings(502, **options)
    rows = model.get_input_embeddings().weight.detach()
    seen[name] = (float((rows[500] - rows[501]).abs().max() / rows[:500].std()), float(rows[500:].std() / rows[:500].std()))
print("seen: difference of two new tokens, and their spread, in standard deviations of the old ones:", seen)
assert seen["default"][0] < 1e-3 and seen["mean_resizing=False"][0] > 0.5
PYTHON
