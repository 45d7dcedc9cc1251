#!/usr/bin/env bash
# Surprise: a mask with holes, as it arises where only the first piece of each word counts, gives wrong tags: decode
#   returns one tag for each kept token, but not the best ones. The likelihood that is trained is another one, too.
# Versions: pytorch-crf 0.7.2, torch 2.13.0.
# Users: gather the kept tokens to the left (emissions[mask] and pad again) before the CRF, in training and in decoding;
#   masking by labels != -100 is not enough for a tokenizer with word pieces.
# Source: only the first column of a mask is checked; the number of kept tokens is taken for the end of the sentence, and
#   the way back goes through the first positions, holes included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pytorch-crf==0.7.2' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch
from torchcrf import CRF

warnings.simplefilter("ignore")
print("pytorch-crf", version("pytorch-crf"), "torch", torch.__version__)
print("guess: tokens that the mask leaves out count for nothing, as if they were not there")
torch.manual_seed(0)
crf = CRF(4, batch_first=True)
best = torch.tensor([[0, 3, 1, 3, 2]])  # tags 3 stand at pieces that continue a word
emissions = 10 * torch.nn.functional.one_hot(best, 4).float()
mask = torch.tensor([[True, False, True, False, True]])
kept, tags = emissions[mask][None], best[mask][None]
holes, packed = crf.decode(emissions, mask)[0], crf.decode(kept)[0]
likelihoods = [round(crf(*arguments).item(), 3) for arguments in ((emissions, best, mask), (kept, tags))]
print("seen: decoded with holes", holes, "without the masked tokens", packed, "log likelihoods", likelihoods)
assert packed == [0, 1, 2] and holes != packed and len(holes) == 3 and likelihoods[0] != likelihoods[1]
PYTHON
