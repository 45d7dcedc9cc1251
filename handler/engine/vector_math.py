"""The functions of MKL that PyTorch calls for exp, log, cos and others on arrays: each is called once by one thread.

MKL chooses the code of such a function at its first call. Where two threads make that call at once, one of them may
compute its share with code of low accuracy: in one of a hundred processes the angles of rotary positions were wrong by
1.5e-4 (https://github.com/pytorch/pytorch/issues/188792). One element is computed by one thread.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    *(torch.exp, torch.expm1, torch.log, torch.log1p, torch.log2, torch.log10, torch.sqrt, torch.erf, torch.erfc),
    *(torch.erfinv, torch.sin, torch.cos, torch.tan, torch.asin, torch.acos, torch.atan, torch.sinh, torch.cosh),
    torch.tanh,
)


def choose_code() -> None:
    """Let MKL choose the code of each function, in both precisions."""
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for function in FUNCTIONS:
            function(one)
