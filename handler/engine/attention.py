"""Attention over a packed row, whose sequences lie end to end: each attends to itself alone."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.batch import VarlenMetadata
from handler.engine.kernel_operators import DTYPES, AttentionKernel, saturate_u8
from handler.engine.kernels import library

T = TypeVar("T")

TileKernel = Callable[..., Tensor]  # as `attend_tiles` in handler.engine.tile_attention
MIN_BLOCK = 64  # queries that attend to a window together


class Attention:
    """Attention within the sequences of one packed row, shared by all layers of one forward pass."""

    def __init__(
        self, varlen: VarlenMetadata, n_heads: int, dtype: torch.dtype, tile_kernel: TileKernel | None = None
    ) -> None:
        """Keep the boundaries.

        Args:
            dtype: that of queries, keys and values.
            tile_kernel: computes all tokens of a row on a GPU, see `handler.engine.tile_attention`.
        """
        self.varlen, self.n_heads, self.dtype, self.tile_kernel = varlen, n_heads, dtype, tile_kernel
        self.read_positions = varlen.read_positions
        # A task reads one token of a sequence at least.
        self.one_each = varlen.read_positions is not None and len(varlen.read_positions) == len(varlen.seq_lens)
        self._kernel: AttentionKernel | None = None
        self._cached: dict[tuple[str, int], Any] = {}

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
        if query is None and zero_point is None and not _needs_gradients(qkv) and self.tile_kernel is not None:
            return self.attend_tiles(qkv)
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
        return self.finish(attend(q[:n_queries], k[:tokens], v[:tokens], self.varlen), zero_point, len(q))

    def attend_tiles(self, qkv: Tensor, fp8_inverse: float | None = None) -> Tensor:
        """Attend by the tile kernel, which must be there; arguments as of `attend_tiles` in tile_attention.py."""
        if self.tile_kernel is None:
            raise ValueError("no tile kernel")
        bounds = self.once("token_bounds", self.varlen, self.varlen.token_bounds)
        return self.tile_kernel(qkv, *bounds, self.n_heads, fp8_inverse)

    def heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the tokens, without padding: (tokens, heads, head width) each."""
        tokens = sum(self.varlen.seq_lens)
        q, k, v = (part[:tokens].view(tokens, self.n_heads, -1) for part in qkv.chunk(3, -1))
        return q, k, v

    def finish(self, context: Tensor, zero_point: float | None, n_rows: int) -> Tensor:
        """Return (n, heads, head width) as (n_rows, width), with the padding that was left out; quantized as above."""
        context = context.flatten(1)
        if n_rows > len(context):  # padding by nothing copies
            context = functional.pad(context, (0, 0, 0, n_rows - len(context)))
        return context if zero_point is None else saturate_u8(context.float().add_(zero_point))

    def position_ids(self) -> Tensor:
        """Return the position of every token in its sequence (tokens,); raises ValueError if the batch has none."""
        if self.varlen.position_ids is None:
            raise ValueError("rotary positions need the position ids of the batch")
        return self.varlen.position_ids

    def once(self, name: str, of: object, compute: Callable[[], T]) -> T:
        """Return what is computed at the first call with `name` and `of`: the same for all layers."""
        key = name, id(of)
        if key not in self._cached:
            self._cached[key] = compute()
        result: T = self._cached[key]
        return result

    def _has_kernel_for(self, query: Tensor) -> bool:
        return not query.is_cuda and not _needs_gradients(query) and query.dtype in DTYPES and library() is not None


def _needs_gradients(states: Tensor) -> bool:
    return torch.is_grad_enabled() and states.requires_grad


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
        key, value, key_ends = attended_keys(key, value, varlen)
        if one_query:
            ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            return varlen_attn(query, key, value, ones, key_ends, 1, longest)
        return varlen_attn(query, key, value, ends, key_ends, longest, longest)
    output, done = torch.empty(query.shape, dtype=query.dtype, device=query.device), 0
    for start, count, length, n_keys in varlen.equal_length_runs():
        # (count, heads, length, width): sequences of equal length share a call
        n_queries = count * (1 if one_query else length)
        shape = (count, -1, *query.shape[1:])
        q = query[done : done + n_queries].view(shape).transpose(1, 2)
        k, v = (states[start : start + count * length].view(shape).transpose(1, 2) for states in (key, value))
        k, v = k[:, :, :n_keys], v[:, :, :n_keys]
        context = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
        output[done : done + n_queries] = context.transpose(1, 2).flatten(0, 1)
        done += n_queries
    return output


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, varlen: VarlenMetadata, window: int, scaling: float | None = None
) -> Tensor:
    """Attend within each sequence to the tokens at most `window` away; all of (tokens, heads, head width).

    A sequence with tokens that are not attended to must lie within one window: then all of its keys are near.
    """
    if has_kernel(query.device, query.dtype) and _kernel_takes(query.shape[-1], scaling):
        ends, longest = varlen.cu_seqlens, varlen.max_seqlen
        key, value, key_ends = attended_keys(key, value, varlen)
        return varlen_attn(query, key, value, ends, key_ends, longest, longest, window_size=(window, window))
    contexts = []
    for start, count, length, n_keys in varlen.equal_length_runs():
        shape = (count, length, *query.shape[1:])
        q, k, v = (x[start : start + count * length].view(shape).transpose(1, 2) for x in (query, key, value))
        if length > window + 1:
            context = _attend_blocks(q, k, v, window, scaling)
        else:
            context = _attend_all(q, k[:, :, :n_keys], v[:, :, :n_keys], scaling)
        contexts.append(context.transpose(1, 2).flatten(0, 1))
    return torch.cat(contexts)


def attended_keys(key: Tensor, value: Tensor, varlen: VarlenMetadata) -> tuple[Tensor, Tensor, Tensor]:
    """Return the keys and values that are attended to, end to end, and their cumulative lengths."""
    if varlen.keys is None:
        return key, value, varlen.cu_seqlens
    positions = varlen.keys.positions
    return key.index_select(0, positions), value.index_select(0, positions), varlen.keys.cu_seqlens


def _attend_all(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, scale=scaling)


def _attend_blocks(query: Tensor, key: Tensor, value: Tensor, window: int, scaling: float | None) -> Tensor:
    """Attend to a window (n, heads, length, head width): a block of queries to the keys that any of them reaches."""
    n, heads, length, width = query.shape
    block = max(MIN_BLOCK, window)
    n_blocks = -(-length // block)
    filling = n_blocks * block - length
    q = functional.pad(query, (0, 0, 0, filling)).view(n, heads, n_blocks, block, width)
    k, v = (
        functional.pad(x, (0, 0, window, window + filling)).unfold(2, block + 2 * window, block).transpose(3, 4)
        for x in (key, value)
    )  # (n, heads, blocks, block + 2 * window, width)
    rows = torch.arange(block, device=query.device)[:, None]
    columns = torch.arange(block + 2 * window, device=query.device)
    positions = columns - window + block * torch.arange(n_blocks, device=query.device)[:, None, None]
    is_near = (columns >= rows) & (columns <= rows + 2 * window) & (positions >= 0)
    is_near &= (positions < length) | (positions - columns + rows + window >= length)  # filling attends to anything
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (n * blocks, heads, ...)
    mask = is_near.repeat(n, 1, 1).unsqueeze(1)
    context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return context.view(n, n_blocks, heads, block, width).transpose(1, 2).flatten(2, 3)[:, :, :length]


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether PyTorch has its varlen kernel here: flash attention, from Ampere on."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return is_half and device.type == "cuda" and _compute_capability_major(device) >= 8 and _has_varlen_attn()


def varlen_attn(*arguments: Any, **options: Any) -> Tensor:
    """Call PyTorch's varlen kernel; its module is imported on a GPU alone, for it imports torch._dynamo."""
    from torch.nn.attention import varlen

    attend_varlen: Any = varlen.varlen_attn
    return attend_varlen(*arguments, **options, **_varlen_options())  # type: ignore[no-any-return]


@functools.cache
def _varlen_options() -> dict[str, Any]:
    """Return the options of the installed kernel that keep a sequence's output independent of its batch.

    From PyTorch 2.13 on the kernel may split keys by the longest sequence of the batch.
    """
    from torch.nn.attention import varlen

    return {"num_splits": 1} if "num_splits" in inspect.signature(varlen.varlen_attn).parameters else {}


@functools.cache
def _has_varlen_attn() -> bool:
    return importlib.util.find_spec("torch.nn.attention.varlen") is not None  # from PyTorch 2.10 on


@functools.cache
def _compute_capability_major(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def _kernel_takes(head_width: int, scaling: float | None) -> bool:
    return (scaling is None or scaling == head_width**-0.5) and head_width % 8 == 0 and head_width <= 256
