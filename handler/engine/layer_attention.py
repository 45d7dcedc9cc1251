"""The attention of one layer: plain, or with rotary positions, a window, or a bias on its logits.

BERT adds positions to the embeddings, so its layers need none of this. ModernBERT and those like it rotate queries and
keys, and let most layers attend to near tokens only; MPNet and DeBERTa have a bias for each distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.attention import Attention, attend_window
from handler.engine.batch import VarlenMetadata
from handler.engine.kernel_operators import to_array
from handler.engine.native_encoder import NativeBias
from handler.engine.relative import Bias, DisentangledBias, DistanceBias, Rotary, rotate

MAX_LENGTH_RATIO = 1.25  # of the longest to the shortest sequence of a group: so much of an attention may be padding
SHORT = 16  # tokens: sequences up to this length share a group


@dataclass(frozen=True)
class LayerAttention:
    """What the attention of a layer has beside queries, keys and values."""

    rotary: Rotary | None = None
    window: int | None = None  # a token attends to those at most so far away; None: to all
    bias: Bias | None = None

    @property
    def needs_all_queries(self) -> bool:
        """Whether the position of a query must be known: then no query is computed without all others."""
        return self.window is not None or self.bias is not None

    @property
    def can_be_native(self) -> bool:
        """Whether the native encoder computes it."""
        return self.window != 0 and not isinstance(self.bias, DisentangledBias)

    def native(self) -> dict[str, Any]:
        """Return it as arguments of `NativeLayer`, in fp32."""
        return {
            "angles": None if self.rotary is None else tuple(map(to_array, self.rotary.table)),
            "window": self.window or 0,
            "bias": NativeBias.of(to_array(self.bias.table.float())) if isinstance(self.bias, DistanceBias) else None,
        }

    def prepack(self, dtype: torch.dtype, device: torch.device) -> None:
        """Convert the weights to `dtype` on `device`; once."""
        if self.bias is not None:
            self.bias.prepack(dtype, device)

    def __call__(
        self, attention: Attention, qkv: Tensor, query: Tensor | None = None, zero_point: float | None = None
    ) -> Tensor:
        """Attend within each sequence; arguments as of `Attention`. `query` is of all tokens if `needs_all_queries`."""
        if self.rotary is not None:
            qkv, query = self._rotated(self.rotary, attention, qkv, query)
        if query is not None and self.needs_all_queries:
            qkv, query = torch.cat([query, qkv], -1), None
        if self.bias is not None:
            q, k, v = attention.heads(qkv)
            return attention.finish(attend_biased(q, k, v, groups(attention), self.bias), zero_point, len(qkv))
        if self.window is not None and attention.varlen.max_seqlen > self.window + 1:
            q, k, v = attention.heads(qkv)
            return attention.finish(attend_window(q, k, v, attention.varlen, self.window), zero_point, len(qkv))
        return attention(qkv, query, zero_point)

    def attend(
        self,
        attention: Attention,
        x: Any,
        residual: Any,
        qkv: Callable[[Any], Tensor],
        query: Callable[[Any], Tensor] | None,
        *,
        is_last: bool,
        zero_point: float | None = None,
    ) -> tuple[Tensor, Any]:
        """Return the context of what a layer's attention reads, and the residual, of tokens that are computed further.

        Args:
            x: (tokens, width), as is `residual`: tensors, or states of a precision that can be indexed like them.
            qkv: computes queries, keys and values of `x`, or keys and values.
            query: computes the queries that `qkv` does not.
            is_last: whether only tokens that are read are computed further.
            zero_point: as of `Attention`.
        """
        read_positions = attention.read_positions if is_last else None
        if query is None:
            context, is_selected = self(attention, qkv(x), None, zero_point), False
        else:
            is_selected = read_positions is not None and attention.one_each and not self.needs_all_queries
            queried = x.index_select(0, read_positions) if is_selected else x
            context = self(attention, qkv(x), query(queried), zero_point)
        if read_positions is not None:
            context = context if is_selected else context.index_select(0, read_positions)
            residual = residual.index_select(0, read_positions)
        return context, residual

    def _rotated(
        self, rotary: Rotary, attention: Attention, qkv: Tensor, query: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return rotated queries and keys, and the values."""
        angles = attention.once("angles", rotary, lambda: rotary.angles(attention.position_ids()))
        if query is None:
            return rotate(qkv, 2 * attention.n_heads, angles), None
        if attention.one_each and not self.needs_all_queries:
            query = rotate(query, attention.n_heads, rotary.angles(attention.position_ids()[attention.read_positions]))
        else:
            query = rotate(query, attention.n_heads, angles)
        return rotate(qkv, attention.n_heads, angles), query


@dataclass(frozen=True)
class Group:
    """Neighbouring sequences of similar lengths, whose attention is computed together."""

    start: int  # their first token in the row
    stop: int
    n: int
    length: int  # of the longest
    rows: Tensor | None = None  # (n * length,) tokens in the row, of each sequence padded to `length`; None: all equal
    is_key: Tensor | None = None  # (n, length) bool: False for padding and for what is not attended to
    kept: Tensor | None = None  # (stop - start,) where the tokens are in `rows`

    def pad(self, states: Tensor) -> Tensor:
        """Return the states of tokens (tokens, heads, head width) as (n, heads, length, head width)."""
        own = states[self.start : self.stop] if self.rows is None else states.index_select(0, self.rows)
        return own.view(self.n, self.length, *states.shape[1:]).transpose(1, 2)

    def unpad(self, states: Tensor) -> Tensor:
        """Return what `pad` padded: (stop - start, heads, head width)."""
        flat = states.transpose(1, 2).flatten(0, 1)
        return flat if self.kept is None else flat.index_select(0, self.kept)


def groups(attention: Attention) -> list[Group]:
    """Return the sequences of a packed row in groups of similar lengths, the same for all layers."""
    return attention.once("groups", None, lambda: _groups(attention.varlen))


def _groups(varlen: VarlenMetadata) -> list[Group]:
    attended = varlen.seq_lens if varlen.keys is None else varlen.keys.counts
    bounds: list[list[int]] = []
    for length in varlen.seq_lens:
        lengths = bounds[-1] if bounds else []
        longest, shortest = max([*lengths, length]), min([*lengths, length])
        if lengths and longest <= max(SHORT, MAX_LENGTH_RATIO * shortest):
            lengths.append(length)
        else:
            bounds.append([length])
    result, start, first = [], 0, 0
    for lengths in bounds:
        counts = list(attended[first : first + len(lengths)])
        result.append(_group(start, lengths, counts, varlen.cu_seqlens.device))
        start, first = result[-1].stop, first + len(lengths)
    return result


def _group(start: int, lengths: list[int], attended: list[int], device: torch.device) -> Group:
    n, longest, stop = len(lengths), max(lengths), start + sum(lengths)
    if n * longest == sum(attended):
        return Group(start, stop, n, longest)
    ends = torch.tensor(lengths).cumsum(0)
    columns, own = torch.arange(longest), torch.tensor(lengths)[:, None]
    is_key = columns < torch.tensor(attended)[:, None]
    rows = start + (ends[:, None] - own) + columns.minimum(own - 1)  # padding repeats the last token
    kept = (columns < own).flatten().nonzero()[:, 0]
    return Group(start, stop, n, longest, rows.flatten().to(device), is_key.to(device), kept.to(device))


def attend_biased(query: Tensor, key: Tensor, value: Tensor, groups: list[Group], bias: Bias) -> Tensor:
    """Attend within each sequence, with a bias on the logits; all of (tokens, heads, head width)."""
    contexts = []
    for group in groups:
        q, k, v = (group.pad(states) for states in (query, key, value))
        mask = bias(q, k)
        if group.is_key is not None:
            mask = mask.masked_fill(~group.is_key[:, None, None, :], float("-inf"))
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=bias.scaling)
        contexts.append(group.unpad(context))
    return torch.cat(contexts)
