#!/usr/bin/env bash
# Surprise: the score of a text in rank.rerank depends on the other texts of the query: a text that is shorter than another
#   one is filled with zero vectors, and these count as words with the similarity 0. Alone a text that points away from the
#   query has the score -0.85; beside a longer one it has 0.0 and is ranked above a text with -0.5.
# Versions: pylate 1.6.0, torch 2.13.0.
# Users: call rank.rerank with one text at a time where scores may be below 0, or compute colbert_scores with a mask.
# Source: the texts are padded with padding_value=0, and no mask is passed to colbert_scores.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sentence-transformers==5.3.0' 'transformers==5.3.0' 'torch==2.13.0' 'datasets==5.2.0' 'pandas==3.1.1'
"$work/venv/bin/pip" install --quiet --no-deps 'pylate==1.6.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from pylate import rank

print("pylate", version("pylate"), "torch", version("torch"))
print("guess: the score of a text is the sum of its best similarities, whatever it is ranked with")
query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
short = torch.tensor([[-0.65, -0.2]])
long = torch.tensor([[-0.4, -0.1], [-0.6, -0.3], [-0.5, -0.2]])


def scores(**texts):
    """Return the texts with their scores, the best first."""
    ranked = rank.rerank([list(texts)], [query], [list(texts.values())])[0]
    return {row["id"]: round(row["score"], 2) for row in ranked}


alone, together = scores(short=short) | scores(long=long), scores(short=short, long=long)
by_hand = {name: round((query @ text.T).max(1).values.sum().item(), 2) for name, text in {"short": short, "long": long}.items()}
print("seen: alone", alone, "together", together)
assert alone == by_hand == {"short": -0.85, "long": -0.5}
assert together == {"short": 0.0, "long": -0.5} and list(together)[0] == "short"
PYTHON
