#!/usr/bin/env bash
# Surprise: truncate_dim shortens vectors after the model's Normalize module, so they are no longer unit vectors: their
#   dot product is not their cosine.
# Versions: sentence-transformers 6.2.0, transformers 5.20.0, torch 2.13.0.
# Users: pass normalize_embeddings=True together with truncate_dim, above all for an index by inner product.
# Source: encode cuts the output of the last module; only its own normalize_embeddings comes after the cut.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sentence-transformers==6.2.0' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer, models
from transformers import BertConfig, BertModel, BertTokenizer

print("sentence-transformers", sentence_transformers.__version__, "torch", torch.__version__)
print("guess: a model that ends in Normalize gives unit vectors, whatever their length")
torch.manual_seed(0)
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film"]
BertTokenizer(vocab={name: i for i, name in enumerate(names)}).save_pretrained("bert")
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertModel(BertConfig(vocab_size=len(names), max_position_embeddings=16, **size)).save_pretrained("bert")
encoder = models.Transformer("bert", max_seq_length=16)
model = SentenceTransformer(modules=[encoder, models.Pooling(16, "mean"), models.Normalize()], device="cpu")
norms = {
    "whole": np.linalg.norm(model.encode("good film")),
    "truncated": np.linalg.norm(model.encode("good film", truncate_dim=8)),
    "normalised": np.linalg.norm(model.encode("good film", truncate_dim=8, normalize_embeddings=True)),
}
print("seen: lengths", {name: round(float(norm), 4) for name, norm in norms.items()})
assert abs(norms["whole"] - 1) < 1e-5 and abs(norms["normalised"] - 1) < 1e-5 and norms["truncated"] < 0.99
PYTHON
