"""Packed attention for the modules of transformers.

They call the attention function registered under the name in their config, and pass no mask where that name is not
registered as a mask function. The boundaries of the sequences come from `varlen`: without them texts would attend to
each other, so `packed_attention` raises if no packed batch runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from handler.engine.attention import attend, attend_window
from handler.engine.varlen import current_varlen

PACKED = "packed"  # the name under which transformers finds this attention


def packed_attention(
    module: nn.Module,  # noqa: ARG001 - the signature is transformers'
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of a packed row, as an attention function of transformers.

    Args:
        module: the calling layer; unused.
        query: (1, heads, tokens, head width), as are `key` and `value`.
        attention_mask: must be None.
        scaling: factor on the logits; 1 / sqrt(head width) by default.
        sliding_window: one more than how far a token attends to each side; None: to all tokens of its sequence.

    Returns:
        (1, tokens, heads, head width), and None in place of the attention weights.

    Raises:
        ValueError: no packed batch runs, or there is a mask.
    """
    if attention_mask is not None:
        raise ValueError("packed attention takes no mask")
    varlen = current_varlen()
    n_repeats = query.shape[1] // key.shape[1]  # heads of queries that share keys and values
    if n_repeats > 1:
        key, value = (states.repeat_interleave(n_repeats, 1) for states in (key, value))
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, head width)
    if sliding_window is not None and varlen.max_seqlen > sliding_window:
        return attend_window(q, k, v, varlen, sliding_window - 1, scaling).unsqueeze(0), None
    return attend(q, k, v, varlen, scaling).unsqueeze(0), None


AttentionInterface.register(PACKED, packed_attention)
