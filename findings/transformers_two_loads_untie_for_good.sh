#!/usr/bin/env bash
# Surprise: two threads that load models at once can leave a process in which no weights are tied any more: every masked
#   language model that is loaded later, alone too, lacks its output layer, until the process ends.
# Versions: transformers 5.24.0, torch 2.13.0.
# Users: load under one lock in a server with several models, and compare the output layer with the embeddings once.
# Source: while it makes a model, from_pretrained replaces PreTrainedModel.tie_weights for the whole process and then puts
#   back what it had found, which of two loads can be the replacement of the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'transformers==5.24.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import threading

import torch
import transformers
from transformers import BertConfig, BertForMaskedLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print("transformers", transformers.__version__, "torch", torch.__version__)
print("guess: loading is safe in threads, or fails; a model that is loaded alone afterwards is right")
torch.manual_seed(0)
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertForMaskedLM(BertConfig(vocab_size=500, **size)).save_pretrained("model")


def is_tied() -> bool:
    model = BertForMaskedLM.from_pretrained("model")
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


assert is_tied(), "alone, at first"
rounds = 0
while is_tied() and rounds < 50:
    threads = [threading.Thread(target=is_tied) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rounds += 1
later = [is_tied() for _ in range(3)]
weight = BertForMaskedLM.from_pretrained("model").get_output_embeddings().weight
print(f"seen: after {rounds} rounds of four loads at once, loaded alone: tied {later}, output layer on {weight.device}")
assert later == [False, False, False]
PYTHON
