"""Attention over a packed row: sequences lie end to end, and each sees itself alone.

`transformers` hands the keyword arguments of a model's forward to the attention function registered under the name in
its config, and gives no mask to a name that it does not know as a mask function. So the boundaries of the sequences
must arrive as a keyword argument: without them, texts would silently attend to each other, so their absence raises.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from handler.batching import Packing

PACKED = "packed"  # the name under which transformers finds this attention

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # PyTorch before 2.10
    from torch.nn.attention.varlen import varlen_attn


def packed_attention(
    module: nn.Module,  # noqa: ARG001 - the signature is transformers'
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of a packed row.

    Args:
        module: the layer that asks; unused.
        query: (1, heads, tokens, width of a head), as are `key` and `value`.
        attention_mask: always None here.
        packing: where the sequences lie.
        scaling: factor on the products; 1 / sqrt(width of a head) by default.

    Returns:
        (1, tokens, heads, width of a head), and None in the place of the attention weights.

    Raises:
        ValueError: no `packing`: this model does not hand on its keyword arguments.
    """
    if packing is None or attention_mask is not None:
        raise ValueError("packed attention needs the boundaries of the sequences and takes no mask")
    tokens = [states[0].transpose(0, 1) for states in (query, key, value)]  # (tokens, heads, width)
    if varlen_attn is not None and query.is_cuda and _fits_the_kernel(query, scaling):
        ends, longest = packing.offsets, packing.max_length
        return varlen_attn(*tokens, ends, ends, longest, longest).unsqueeze(0), None
    answer = torch.empty_like(tokens[0])
    for start, count, length in packing.runs():
        # (count, heads, length, width): sequences of one length share a call
        shape = (count, length, *answer.shape[1:])
        q, k, v = (states[start : start + count * length].view(shape).transpose(1, 2) for states in tokens)
        attended = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        answer[start : start + count * length] = attended.transpose(1, 2).flatten(0, 1)
    return answer.unsqueeze(0), None


def _fits_the_kernel(query: Tensor, scaling: float | None) -> bool:
    """Tell whether PyTorch's variable-length kernel (flash attention: Ampere or newer) takes these states."""
    width = query.shape[-1]
    usual_scaling = scaling is None or scaling == width**-0.5
    half = query.dtype in (torch.bfloat16, torch.float16)
    recent = torch.cuda.get_device_capability(query.device) >= (8, 0)
    return usual_scaling and half and recent and width % 8 == 0 and width <= 256


AttentionInterface.register(PACKED, packed_attention)
