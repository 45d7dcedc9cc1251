"""Attention over a packed row, whose sequences lie end to end: each attends to itself alone.

Two entry points. `Attention` serves our own encoder. `packed_attention` serves the modules of `transformers`, which
pass the keyword arguments of a model's forward to the attention function registered under the name in its config, and
pass no mask where that name is not registered as a mask function. So the boundaries of the sequences must arrive as a
keyword argument. Without them texts would attend to each other, so `packed_attention` raises if they are missing.
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
from handler.engine.kernels import DTYPES, AttentionKernel, library, saturate_u8

PACKED = "packed"  # the name under which transformers finds this attention

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # PyTorch before 2.10
    from torch.nn.attention.varlen import varlen_attn


class Attention:
    """Attention within the sequences of one packed row, shared by all layers of one forward pass."""

    def __init__(self, varlen: VarlenMetadata, n_heads: int, dtype: torch.dtype) -> None:
        """Keep the boundaries; `dtype` is that of queries, keys and values."""
        self.varlen, self.n_heads, self.dtype = varlen, n_heads, dtype
        self.read_positions = varlen.read_positions
        # A task reads one token of a sequence at least.
        self.one_each = varlen.read_positions is not None and len(varlen.read_positions) == len(varlen.seq_lens)
        self._kernel: AttentionKernel | None = None

    def __call__(self, qkv: Tensor, query: Tensor | None = None, zero_point: float | None = None) -> Tensor:
        """Attend within each sequence.

        Args:
            qkv: (tokens, 3 * width): queries, keys and values; (tokens, 2 * width) with a separate `query`. Rows past
                the last token are padding, and so are their outputs.
            query: (tokens, width), or of one token of each sequence (sequences, width) if `one_each`.
            zero_point: added to the output, which is then clamped to 0..255 and truncated.

        Returns:
            (tokens, width), or (sequences, width) as `query`.
        """
        key, value = qkv.chunk(3 if query is None else 2, -1)[-2:]
        one_query = query is not None and self.one_each
        query = qkv[:, : key.shape[1]] if query is None else query
        if self._has_kernel_for(query):
            if self._kernel is None:
                self._kernel = AttentionKernel(self.varlen, self.n_heads, key.shape[1] // self.n_heads)
            return self._kernel(query, key, value, one_query=one_query, zero_point=zero_point)
        q, k, v = (part.view(len(part), self.n_heads, -1) for part in (query, key, value))
        tokens = sum(self.varlen.seq_lens)
        n_queries = len(self.varlen.seq_lens) if one_query else tokens
        context = attend(q[:n_queries], k[:tokens], v[:tokens], self.varlen).flatten(1)
        context = functional.pad(context, (0, 0, 0, len(q) - n_queries))
        return context if zero_point is None else saturate_u8(context.float().add_(zero_point))

    def _has_kernel_for(self, query: Tensor) -> bool:
        needs_gradients = torch.is_grad_enabled() and query.requires_grad
        return not query.is_cuda and not needs_gradients and query.dtype in DTYPES and library() is not None


def attend(query: Tensor, key: Tensor, value: Tensor, varlen: VarlenMetadata, scaling: float | None = None) -> Tensor:
    """Attend within each sequence by PyTorch's own kernels.

    Args:
        query: (tokens, heads, head width), or of one token of each sequence (sequences, heads, head width).
        key: (tokens, heads, head width), as is `value`.
        scaling: factor on the logits; 1 / sqrt(head width) by default.

    Returns:
        As `query`.
    """
    one_query = len(query) == len(varlen.seq_lens)
    if has_kernel(query.device, query.dtype) and _kernel_takes(query.shape[-1], scaling):
        ends, longest = varlen.cu_seqlens, varlen.max_seqlen
        if one_query:
            ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            return varlen_attn(query, key, value, ones, ends, 1, longest)  # type: ignore[no-any-return]
        return varlen_attn(query, key, value, ends, ends, longest, longest)  # type: ignore[no-any-return]
    output, done = torch.empty(query.shape, dtype=query.dtype, device=query.device), 0
    for start, count, length in varlen.equal_length_runs():
        # (count, heads, length, width): sequences of equal length share a call
        n_queries = count * (1 if one_query else length)
        shape = (count, -1, *query.shape[1:])
        q = query[done : done + n_queries].view(shape).transpose(1, 2)
        k, v = (states[start : start + count * length].view(shape).transpose(1, 2) for states in (key, value))
        context = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        output[done : done + n_queries] = context.transpose(1, 2).flatten(0, 1)
        done += n_queries
    return output


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
    """Attend within each sequence of a packed row, as an attention function of transformers.

    Args:
        module: the calling layer; unused.
        query: (1, heads, tokens, head width), as are `key` and `value`.
        attention_mask: must be None.
        varlen: boundaries of the sequences.
        scaling: factor on the logits; 1 / sqrt(head width) by default.

    Returns:
        (1, tokens, heads, head width), and None in place of the attention weights.

    Raises:
        ValueError: no `varlen`: this model does not pass its keyword arguments on.
    """
    if varlen is None or attention_mask is not None:
        raise ValueError("packed attention needs the boundaries of the sequences and takes no mask")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, head width)
    return attend(q, k, v, varlen, scaling).unsqueeze(0), None


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether PyTorch has its varlen kernel here: flash attention, from Ampere on."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return varlen_attn is not None and is_half and device.type == "cuda" and _compute_capability_major(device) >= 8


@functools.cache
def _compute_capability_major(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def _kernel_takes(head_width: int, scaling: float | None) -> bool:
    return (scaling is None or scaling == head_width**-0.5) and head_width % 8 == 0 and head_width <= 256


AttentionInterface.register(PACKED, packed_attention)
