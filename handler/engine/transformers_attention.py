"""Packed attention for the modules of transformers.

They pass the keyword arguments of a model's forward to the attention function registered under the name in its config,
and pass no mask where that name is not registered as a mask function. So the boundaries of the sequences must arrive as
a keyword argument. Without them texts would attend to each other, so `packed_attention` raises if they are missing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from handler.batching import VarlenMetadata
from handler.engine.attention import attend

PACKED = "packed"  # the name under which transformers finds this attention


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


AttentionInterface.register(PACKED, packed_attention)
