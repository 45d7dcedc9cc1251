#!/usr/bin/env bash
# Surprise: a BERT for masked words whose embeddings were trained beside a LoRA adapter (modules_to_save, as for new words)
#   is merged and saved, and loaded again without the bias of its output layer: it is zero, and the answers are others.
# Versions: peft 0.21.2, transformers 5.24.0, torch 2.13.0.
# Users: set model.config.tie_word_embeddings back to True before saving (weights that differ are loaded as they were
#   saved all the same), and compare the logits before saving and after loading.
# Source: merging sets tie_word_embeddings to False, for the output layer no longer shares the weights; the bias has two
#   names, one of which is saved, and loading ties neither weights nor bias then.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'peft==0.21.2' 'transformers==5.24.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
print("guess: the merged model answers the same after saving and loading")
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ids = torch.arange(4, 14)[None]
seen = {}
for name, options in (("no embeddings", {}), ("embeddings", {"modules_to_save": ["word_embeddings"]})):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=50, **size))
    torch.nn.init.normal_(model.cls.predictions.bias)  # as pretraining leaves it
    merged = get_peft_model(model, LoraConfig(target_modules=["query"], **options)).merge_and_unload().eval()
    tied = merged.config.tie_word_embeddings
    for ties in (tied, True):
        merged.config.tie_word_embeddings = ties
        merged.save_pretrained(name)
        loaded = BertForMaskedLM.from_pretrained(name)
        with torch.no_grad():
            difference = (merged(input_ids=ids).logits - loaded(input_ids=ids).logits).abs().max().item()
        if ties:
            assert difference == 0, "with the advice above"
        seen.setdefault(name, (difference, loaded.cls.predictions.decoder.bias.abs().max().item(), tied))
    print(f"seen: {name}: greatest difference of a logit, greatest bias, tie_word_embeddings: {seen[name]}")
assert seen["no embeddings"][0] == 0 < 1 < seen["embeddings"][0]
assert seen["embeddings"][1:] == (0, False)
PYTHON
