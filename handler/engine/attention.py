"""Attention over a packed row: sequences lie end to end, and each sees itself alone.

Two doors lead here. `Attention` serves our own encoder. `packed_attention` serves the modules of `transformers`, which
hands the keyword arguments of a model's forward to the attention function registered under the name in its config, and
gives no mask to a name that it does not know as a mask function. So the boundaries of the sequences must arrive as a
keyword argument: without them, texts would silently attend to each other, so their absence raises.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from handler.batching import VarlenMetadata
from handler.engine.kernels import KINDS, AttentionKernel, integers, library

PACKED = "packed"  # the name under which transformers finds this attention

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # PyTorch before 2.10
    from torch.nn.attention.varlen import varlen_attn


class Attention:
    """Where the sequences of one packed row lie, ready to be attended within, in every layer."""

    def __init__(self, varlen: VarlenMetadata, heads: int, dtype: torch.dtype) -> None:
        """Take our own kernel where there is one; `dtype` is that of the states."""
        self.varlen, self.heads, self.dtype = varlen, heads, dtype
        self.read = varlen.read
        # A task reads one token of a sequence at least.
        self.one_each = varlen.read is not None and len(varlen.read) == len(varlen.lengths)
        self._kernel: AttentionKernel | None = None

    def __call__(self, states: Tensor, query: Tensor | None = None, zero: float | None = None) -> Tensor:
        """Attend within each sequence.

        Args:
            states: (tokens, 3 * width): queries, keys and values; without queries (tokens, 2 * width). Further rows
                belong to no sequence; what is answered for them means nothing.
            query: (tokens, width), or of one token of each sequence (sequences, width) if `one_each`.
            zero: added to what is answered, which is then cut to integers of 0..255.

        Returns:
            (tokens, width), or (sequences, width) as `query`.
        """
        key, value = states.chunk(3 if query is None else 2, -1)[-2:]
        alone = query is not None and self.one_each
        query = states[:, : key.shape[1]] if query is None else query
        if self._fits(query):
            kernel = self._kernel or AttentionKernel(self.varlen, self.heads, key.shape[1] // self.heads)
            self._kernel = kernel
            return kernel(query, key, value, alone=alone, zero=zero)
        q, k, v = (part.view(len(part), self.heads, -1) for part in (query, key, value))
        tokens = sum(self.varlen.lengths)
        asked = len(self.varlen.lengths) if alone else tokens
        answer = attend(q[:asked], k[:tokens], v[:tokens], self.varlen).flatten(1)
        answer = functional.pad(answer, (0, 0, 0, len(q) - asked))
        return answer if zero is None else integers(answer.float().add_(zero))

    def _fits(self, query: Tensor) -> bool:
        gradients = torch.is_grad_enabled() and query.requires_grad
        return not query.is_cuda and not gradients and query.dtype in KINDS and library() is not None


def attend(query: Tensor, key: Tensor, value: Tensor, varlen: VarlenMetadata, scaling: float | None = None) -> Tensor:
    """Attend within each sequence by PyTorch's own kernels.

    Args:
        query: (tokens, heads, width of a head), or of one token of each sequence (sequences, heads, width).
        key: (tokens, heads, width of a head), as is `value`.
        scaling: factor on the products; 1 / sqrt(width of a head) by default.

    Returns:
        As `query`.
    """
    alone = len(query) == len(varlen.lengths)
    if has_kernel(query.device, query.dtype) and _fits_the_kernel(query.shape[-1], scaling):
        ends, longest = varlen.offsets, varlen.max_length
        if alone:
            ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            return varlen_attn(query, key, value, ones, ends, 1, longest)  # type: ignore[no-any-return]
        return varlen_attn(query, key, value, ends, ends, longest, longest)  # type: ignore[no-any-return]
    answer, done = torch.empty(query.shape, dtype=query.dtype, device=query.device), 0
    for start, count, length in varlen.runs():
        # (count, heads, length, width): sequences of one length share a call
        asking = 1 if alone else length
        shape = (count, -1, *query.shape[1:])
        q = query[done : done + count * asking].view(shape).transpose(1, 2)
        k, v = (states[start : start + count * length].view(shape).transpose(1, 2) for states in (key, value))
        attended = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        answer[done : done + count * asking] = attended.transpose(1, 2).flatten(0, 1)
        done += count * asking
    return answer


def packed_attention(
    module: nn.Module,  # noqa: ARG001 - the signature is transformers'
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    varlen: VarlenMetadata | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of a packed row.

    Args:
        module: the layer that asks; unused.
        query: (1, heads, tokens, width of a head), as are `key` and `value`.
        attention_mask: always None here.
        varlen: where the sequences lie.
        scaling: factor on the products; 1 / sqrt(width of a head) by default.

    Returns:
        (1, tokens, heads, width of a head), and None in the place of the attention weights.

    Raises:
        ValueError: no `packing`: this model does not hand on its keyword arguments.
    """
    if varlen is None or attention_mask is not None:
        raise ValueError("packed attention needs the boundaries of the sequences and takes no mask")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, width)
    return attend(q, k, v, varlen, scaling).unsqueeze(0), None


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether PyTorch has its kernel for sequences of several lengths here: flash attention, from Ampere on."""
    half = dtype in (torch.bfloat16, torch.float16)
    return varlen_attn is not None and half and device.type == "cuda" and _major(device) >= 8


@functools.cache
def _major(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def _fits_the_kernel(width: int, scaling: float | None) -> bool:
    return (scaling is None or scaling == width**-0.5) and width % 8 == 0 and width <= 256


AttentionInterface.register(PACKED, packed_attention)
