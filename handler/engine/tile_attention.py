"""Attention over tiles of a packed row, for short sequences on a GPU.

Flash attention gives every sequence tiles of its own: 128 rows for a text of 15 tokens. Here a tile is a number of rows
of the packed row, whichever sequences they belong to. It attends to the keys from the start of its first row's sequence
to the end of its last row's; keys of other sequences are masked. It reads queries, keys and values where one product
left them, and can write eight bits. The online softmax is that of FlashAttention-2 (Dao, 2023, arXiv 2307.08691).

Triton compiles the kernel; this module is imported on a GPU alone.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from handler.engine.attention import attend
from handler.engine.batch import VarlenMetadata
from handler.engine.fp8_scales import E4M3_MAX
from handler.engine.fusion import rows_allclose

HEAD_WIDTHS = (16, 32, 64, 128)
RTOL = (0.02, 0.08)  # of the norm of a row, in 16 bits and in E4M3
# Rows and keys of a tile, warps, and stages of the pipeline that loads keys.
TILE_ROWS, TILE_KEYS, WARPS, STAGES = 64, 64, 4, 3


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _attend_keys(  # type: ignore[no-untyped-def]  # Triton takes no other annotations
    query,
    keys,
    columns,
    last_key,
    start,
    end,
    state,
    factor,
    WIDTH: tl.constexpr,  # noqa: N803 - constants of the compiler
    HEAD: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr,  # noqa: N803
):
    """Attend to the keys of some columns; with MASKED, each row to those of its own sequence alone."""
    largest, total, context = state
    dims = tl.arange(0, HEAD)
    starts = columns.to(tl.int64) * (3 * WIDTH)
    key_pointers = keys + starts[None, :] + dims[:, None]
    value_pointers = keys + WIDTH + starts[:, None] + dims[None, :]
    if MASKED:
        is_key = columns < last_key
        key = tl.load(key_pointers, mask=is_key[None, :], other=0.0)
        value = tl.load(value_pointers, mask=is_key[:, None], other=0.0)
    else:
        key, value = tl.load(key_pointers), tl.load(value_pointers)
    logits = tl.dot(query, key)
    if MASKED:
        is_own = (columns[None, :] >= start[:, None]) & (columns[None, :] < end[:, None])
        logits = tl.where(is_own, logits, -float("inf"))
    new = tl.maximum(largest, tl.max(logits, 1) * factor)  # in units of log 2
    # A row may have met no key of its own yet.
    finite = tl.where(new == -float("inf"), 0.0, new) if MASKED else new
    weights = tl.exp2(logits * factor - finite[:, None])
    decay = tl.exp2(largest - finite)
    total = total * decay + tl.sum(weights, 1)
    context = tl.dot(weights.to(value.dtype), value, context * decay[:, None])
    return new, total, context


# `tokens` differs in every batch: specialized for its divisors, the kernel would be compiled again for some of them.
@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator,unused-ignore]
def _attend(  # type: ignore[no-untyped-def]
    qkv,
    output,
    starts,
    ends,
    tokens,
    factor,
    inverse,
    WIDTH: tl.constexpr,  # noqa: N803
    HEAD: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    QUANTIZE: tl.constexpr,  # noqa: N803
):
    """Compute one tile of one head: qkv (tokens, 3 * WIDTH) -> output (tokens, WIDTH)."""
    head = tl.program_id(0)
    first = tl.program_id(1) * ROWS
    last = tl.minimum(first + ROWS, tokens) - 1
    rows = first + tl.arange(0, ROWS)
    dims = tl.arange(0, HEAD)
    is_row = rows < tokens
    start = tl.load(starts + rows, mask=is_row, other=0)
    end = tl.load(ends + rows, mask=is_row, other=0)
    queries = qkv + head * HEAD
    offsets = rows.to(tl.int64)[:, None]
    query = tl.load(queries + offsets * (3 * WIDTH) + dims[None, :], mask=is_row[:, None], other=0.0)
    first_key, last_key = tl.load(starts + first), tl.load(ends + last)
    # A tile within one sequence masks no keys but those of the last block, which is not full.
    full = tl.where(tl.load(starts + last) == first_key, (last_key - first_key) // KEYS * KEYS, 0)
    state = (
        tl.full([ROWS], -float("inf"), tl.float32),  # the largest logit
        tl.zeros([ROWS], tl.float32),  # the sum of the weights
        tl.zeros([ROWS, HEAD], tl.float32),  # the context times that sum
    )
    keys = queries + WIDTH
    for at in tl.range(first_key, first_key + full, KEYS):
        columns = at + tl.arange(0, KEYS)
        state = _attend_keys(query, keys, columns, last_key, start, end, state, factor, WIDTH, HEAD, False)
    for at in tl.range(first_key + full, last_key, KEYS):
        columns = at + tl.arange(0, KEYS)
        state = _attend_keys(query, keys, columns, last_key, start, end, state, factor, WIDTH, HEAD, True)
    _, total, context = state
    context = context / total[:, None]
    if QUANTIZE:
        context = tl.minimum(tl.maximum(context * inverse, -448.0), 448.0)
    target = output + offsets * WIDTH + head * HEAD + dims[None, :]
    tl.store(target, context.to(output.dtype.element_ty), mask=is_row[:, None])


def attend_tiles(qkv: Tensor, starts: Tensor, ends: Tensor, n_heads: int, fp8_inverse: float | None = None) -> Tensor:
    """Attend within each sequence of a packed row.

    Args:
        qkv: (tokens, 3 * width) in bf16 or fp16: queries, keys and values.
        starts: (tokens,) int32: the first token of the sequence of each token.
        ends: (tokens,) int32: the token after the last one of that sequence.
        fp8_inverse: the context is multiplied by it and rounded to E4M3; None keeps the dtype of `qkv`.

    Returns:
        (tokens, width)
    """
    qkv, tokens, width = qkv.contiguous(), len(qkv), qkv.shape[1] // 3
    head = width // n_heads
    dtype = qkv.dtype if fp8_inverse is None else torch.float8_e4m3fn
    output = torch.empty((tokens, width), dtype=dtype, device=qkv.device)
    factor = head**-0.5 / math.log(2)
    _attend[n_heads, -(-tokens // TILE_ROWS)](
        *(qkv, output, starts, ends, tokens, factor, fp8_inverse or 1.0),
        WIDTH=width,
        HEAD=head,
        ROWS=TILE_ROWS,
        KEYS=TILE_KEYS,
        QUANTIZE=fp8_inverse is not None,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return output


def check(n_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Compile the kernel for a model and compare it with attention computed sequence by sequence in fp32.

    Raises:
        ArithmeticError: it has no kernel for this width of a head, or computes something else here.
    """
    if width // n_heads not in HEAD_WIDTHS:
        raise ArithmeticError(f"a head of width {width // n_heads} is none of {HEAD_WIDTHS}")
    lengths = (1, 130, 7, 64, 65, 300, *[15] * 20)
    qkv = torch.randn(sum(lengths), 3 * width, device=device).to(dtype)
    cu_seqlens = torch.tensor((0, *lengths), device=device).cumsum(0).int()
    varlen = VarlenMetadata(lengths, cu_seqlens, max(lengths))
    q, k, v = (states.float().reshape(len(qkv), n_heads, -1) for states in qkv.chunk(3, -1))
    expected = attend(q, k, v, varlen).flatten(1)
    bounds = varlen.token_bounds()
    inverse = E4M3_MAX / float(expected.abs().max())
    contexts = (
        attend_tiles(qkv, *bounds, n_heads).float(),
        attend_tiles(qkv, *bounds, n_heads, inverse).float() / inverse,
    )
    for context, rtol in zip(contexts, RTOL, strict=True):
        if not rows_allclose(context, expected, rtol):
            raise ArithmeticError("attention over tiles computes something else")
