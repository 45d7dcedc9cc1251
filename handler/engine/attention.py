"""Attention over a packed row: sequences lie end to end, and each sees itself alone.

Two doors lead here. `Attention` serves our own encoder. `packed_attention` serves the modules of `transformers`, which
hands the keyword arguments of a model's forward to the attention function registered under the name in its config, and
gives no mask to a name that it does not know as a mask function. So the boundaries of the sequences must arrive as a
keyword argument: without them, texts would silently attend to each other, so their absence raises.
"""

from __future__ import annotations

import contextlib
import functools
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from handler.batching import Packing

PACKED = "packed"  # the name under which transformers finds this attention

# Up to this many tokens PyTorch's own kernel, which calls a small product for every sequence and head, loses to
# products of many of them at once: 1.3 to 2.3 times slower at 16 and 40 tokens in fp32, but 1.6 times faster at 160
# (2 threads, 2026-11-24). In bf16 it is slower at any length.
SHORT = 64
MOST_SCORES = 1 << 22  # of one call: 16 MB in fp32

varlen_attn: Any = None
with contextlib.suppress(ImportError):  # PyTorch before 2.10
    from torch.nn.attention.varlen import varlen_attn


class Group(NamedTuple):
    """Sequences of nearly one length, computed as if they all had `length` tokens."""

    sequences: Tensor  # (n,) which they are
    rows: Tensor  # (3 * n * heads * length,) of a head's query, key and value of each token, in (tokens * 3 * heads)
    pair_rows: Tensor  # (2 * n * heads * length,) the same where no queries lie beside keys and values
    mask: Tensor  # (n * heads, 1, length): 0, or minus infinity where a sequence has ended
    length: int


class Attention:
    """Where the sequences of one packed row lie, ready to be attended within, in every layer.

    Where PyTorch has no kernel for sequences of several lengths, short ones (of bf16, and on a GPU, all) are computed
    by groups of nearly one length. The length that a sequence is rounded up to depends on itself alone, and so does, to
    the last bit, what is computed for it.
    """

    def __init__(self, packing: Packing, heads: int, dtype: torch.dtype) -> None:
        """Find groups of sequences, unless PyTorch's own kernels are faster for these."""
        self.packing, self.heads, self.dtype = packing, heads, dtype
        self.read = packing.read
        # A task reads one token of a sequence at least.
        self.one_each = packing.read is not None and len(packing.read) == len(packing.lengths)
        self._groups: list[Group] = []
        device = packing.offsets.device
        one_by_one = device.type == "cpu" and dtype == torch.float32 and min(packing.lengths) > SHORT
        if not has_kernel(device, dtype) and not one_by_one:
            self._group(dtype, device)

    def __call__(self, states: Tensor, query: Tensor | None = None) -> Tensor:
        """Attend within each sequence.

        Args:
            states: (tokens, 3 * width): queries, keys and values; without queries (tokens, 2 * width).
            query: (tokens, width), or of one token of each sequence (sequences, width).

        Returns:
            (tokens, width), or (sequences, width) as `query`.
        """
        if query is not None and len(query) == len(states) and not self.one_each:
            states, query = torch.cat([query, states], -1), None
        if self._groups:
            return self._in_groups(states, query)
        parts = states.view(len(states), 3 if query is None else 2, self.heads, -1)
        asking = parts[:, 0] if query is None else query.view(len(query), self.heads, -1)
        return attend(asking, parts[:, -2], parts[:, -1], self.packing).flatten(1)

    def _in_groups(self, states: Tensor, query: Tensor | None) -> Tensor:
        width = states.shape[-1] // (3 if query is None else 2)
        flat = states.view(-1, width // self.heads)  # a head of a token a row
        answers = []
        for group in self._groups:
            shape = (-1, len(group.mask), group.length, flat.shape[-1])
            if query is None:
                q, k, v = flat.index_select(0, group.rows).view(shape)
            else:
                k, v = flat.index_select(0, group.pair_rows).view(shape)
                q = query.index_select(0, group.sequences).view(len(group.mask), 1, -1)
            answers.append(_attended(q, k, v, group.mask, self.heads).flatten(0, 1))
        answer = answers[0] if len(answers) == 1 else torch.cat(answers)
        if query is None:
            return answer.index_select(0, self._back).view(-1, width)
        return answer.view(-1, width).index_select(0, self._order)

    def _group(self, dtype: torch.dtype, device: torch.device) -> None:
        starts = [0, *accumulate(self.packing.lengths)]
        places: dict[int, list[int]] = {}
        for index, length in enumerate(self.packing.lengths):
            places.setdefault(rounded(length), []).append(index)
        heads, back, done = torch.arange(self.heads), torch.empty(sum(self.packing.lengths), self.heads).long(), 0
        for length, its in places.items():
            n = max(1, MOST_SCORES // (self.heads * length * length))
            for chosen in (its[i : i + n] for i in range(0, len(its), n)):
                lengths = torch.tensor([self.packing.lengths[index] for index in chosen])
                first = torch.tensor([starts[index] for index in chosen])
                within = torch.arange(length)
                inside = within < lengths[:, None]  # (n, length)
                tokens = first[:, None] + torch.minimum(within, lengths[:, None] - 1)
                rows, pair_rows = (
                    ((tokens[None, :, None] * c + torch.arange(c)[:, None, None, None]) * self.heads + heads[:, None])
                    for c in (3, 2)  # (c, n, heads, length)
                )
                at = (torch.arange(len(chosen))[:, None] * self.heads + heads)[:, None] * length + within[:, None]
                back[tokens[inside]] = at[inside] + done
                done += at.numel()
                mask = torch.zeros(inside.shape, dtype=dtype).masked_fill_(~inside, -torch.inf)
                mask = mask.repeat_interleave(self.heads, 0)[:, None]
                parts = (torch.tensor(chosen), rows.flatten(), pair_rows.flatten(), mask)
                sequences, flat, flat_pairs, mask = (part.to(device) for part in parts)
                self._groups.append(Group(sequences, flat, flat_pairs, mask, length))
        self._back = back.flatten().to(device)
        self._order = torch.cat([group.sequences for group in self._groups]).argsort()


def rounded(length: int) -> int:
    """Round a length up, to a multiple of 16 at least and of an eighth of a power of two.

    Steps of 8 make more and smaller groups: 7 to 17 % slower on short texts in int8 (width 384, 2026-11-24).

    >>> rounded(3), rounded(16), rounded(60), rounded(130), rounded(300)
    (16, 16, 64, 160, 320)
    """
    step = max(16, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Attend in sequences of one length, (n * heads, length, width of a head) each."""
    scale = q.shape[-1] ** -0.5
    if q.dtype == torch.float32 and k.shape[1] > SHORT:
        q, k, v, mask = (states.view(-1, heads, *states.shape[1:]) for states in (q, k, v, mask))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).flatten(0, 1)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), v)


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None = None) -> Tensor:
    """Attend within each sequence by PyTorch's own kernels.

    Args:
        query: (tokens, heads, width of a head), or of one token of each sequence (sequences, heads, width).
        key: (tokens, heads, width of a head), as is `value`.
        scaling: factor on the products; 1 / sqrt(width of a head) by default.

    Returns:
        As `query`.
    """
    alone = len(query) == len(packing.lengths)
    if has_kernel(query.device, query.dtype) and _fits_the_kernel(query.shape[-1], scaling):
        ends, longest = packing.offsets, packing.max_length
        if alone:
            ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            return varlen_attn(query, key, value, ones, ends, 1, longest)  # type: ignore[no-any-return]
        return varlen_attn(query, key, value, ends, ends, longest, longest)  # type: ignore[no-any-return]
    answer, done = torch.empty(query.shape, dtype=query.dtype, device=query.device), 0
    for start, count, length in packing.runs():
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
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, width)
    return attend(q, k, v, packing, scaling).unsqueeze(0), None


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
