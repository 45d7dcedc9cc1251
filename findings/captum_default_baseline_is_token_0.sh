#!/usr/bin/env bash
# Surprise: LayerIntegratedGradients on token ids compares with a text of token 0 by default, not with an embedding of
#   zeros. Token 0 is padding for BERT, but <s> for RoBERTa and XLM-R, whose padding is 1.
# Versions: captum 0.9.0, torch 2.13.0.
# Users: always pass baselines= with the padding or mask token at the positions of words, and <s>, </s>, [CLS], [SEP] as they are.
# Source: the default baseline is 0 for the input, which here are ids; the layer's output for that input is the baseline.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'captum==0.9.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import captum
import torch
from captum.attr import LayerIntegratedGradients

print("captum", captum.__version__, "torch", torch.__version__)
print("guess: attributions sum to f(text) - f(embeddings of zeros)")
torch.manual_seed(0)
embedding, head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2)


def score(hidden: torch.Tensor) -> torch.Tensor:
    return head(torch.tanh(hidden.sum(1)))


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return score(self.embedding(ids))


ids = torch.tensor([[1, 2, 3]])
total = LayerIntegratedGradients(Classifier(), embedding).attribute(ids, target=1).sum().item()
with torch.no_grad():
    text, zeros = score(embedding(ids))[0, 1], score(torch.zeros(1, 3, 4))[0, 1]
    token_0 = score(embedding(torch.zeros_like(ids)))[0, 1]
print(f"seen: sum {total:.4f}, f(text) - f(zeros) {text - zeros:.4f}, f(text) - f(token 0) {text - token_0:.4f}")
assert abs(total - (text - token_0)) < 1e-3 < abs(total - (text - zeros))
PYTHON
