#!/usr/bin/env bash
# Surprise: merging a LoRA adapter of word_embeddings into a BERT for masked words changes its answers: the decoder shares
#   the table and gets the update too, which it did not have in training. A model that restored 81 % of the words of its
#   texts restores 1 % after merge_and_unload, without a warning.
# Versions: peft 0.21.2, transformers 5.20.0, torch 2.13.0.
# Users: compare logits before and after merge_and_unload; give the output layer a copy of the weights before merging, or
#   train rows with trainable_token_indices.
# Source: the adapter adds its part to the lookup only; merging writes it into the one tensor that both layers read.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
torch.set_num_threads(1)
print("guess: a merged model answers as the adapter did, to rounding")
warned = []
warnings.showwarning = lambda message, *_: warned.append(str(message))
config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100)
seen = {}
for targets in (["query", "value"], ["query", "value", "word_embeddings"]):
    torch.manual_seed(0)
    model = get_peft_model(BertForMaskedLM(config), LoraConfig(target_modules=targets))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-2)
    ids = torch.randint(4, 100, (10, 10))
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = model.merge_and_unload()(input_ids=ids).logits
    right = [(logits.argmax(-1) == ids).float().mean().item() for logits in (before, after)]
    seen[targets[-1]] = (before - after).abs().max().item(), *right
    print("seen:", targets, "greatest difference of a logit, share of right words before and after:", seen[targets[-1]])
print("warnings:", warned)
assert seen["value"][0] < 1e-4 < 1 < seen["word_embeddings"][0]
assert seen["word_embeddings"][1] > 0.6 and seen["word_embeddings"][2] < 0.2 and not warned
PYTHON
