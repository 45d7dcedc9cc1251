#!/usr/bin/env bash
# Surprise: three counters of floating point operations leave out attention for a BERT as transformers runs it: the count
#   for each token is the same for 16 and for 512 tokens. In eager mode two of them see it; thop never does.
# Versions: torch 2.13.0 (FlopCounterMode, CPU), fvcore 0.1.5.post20221221, thop 0.1.1.post2209072238, transformers 5.20.0.
# Users: count with attn_implementation="eager" and torch or fvcore; the part that grows with the square of the length, and
#   with it the gain of shorter inputs, is missing otherwise.
# Source: the fused kernel for CPUs is not in the tables (pytorch issue 195460); thop counts modules, not functions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'fvcore==0.1.5.post20221221' 'thop==0.1.1.post2209072238' 'transformers==5.20.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
from importlib.metadata import version

import thop
import torch
import transformers
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

logging.disable(logging.WARNING)
print("torch", torch.__version__, "fvcore", version("fvcore"), "thop", version("thop"), "transformers", transformers.__version__)
print("guess: operations for each token grow with the length in each counter, as attention's do")


@torch.inference_mode()
def growth(attention: str) -> dict[str, float]:
    """Return how many times more operations a token takes in 512 tokens than in 16."""
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=100)
    config._attn_implementation = attention
    model = BertModel(config, add_pooling_layer=False).eval()
    counts = []
    for length in (16, 512):
        ids = torch.ones(1, length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(ids)
        found = {"torch": counter.get_total_flops(), "fvcore": FlopCountAnalysis(model, ids).total(), "thop": thop.profile(model, (ids,), verbose=False)[0]}
        counts.append({name: count / length for name, count in found.items()})
    return {name: round(counts[1][name] / counts[0][name], 2) for name in counts[0]}


fused, eager = growth("sdpa"), growth("eager")
print("seen: growth with fused attention", fused, "in eager mode", eager)
assert set(fused.values()) == {1.0} and eager["torch"] > 2.5 and eager["fvcore"] > 2.5 and eager["thop"] == 1.0
PYTHON
