"""What the attention of each family of transformers has beside queries, keys and values, read from its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from handler.engine.layer_attention import LayerAttention
from handler.engine.relative import DisentangledBias, DistanceBias, Rotary


def attentions_of(base: Any, n_layers: int) -> list[LayerAttention]:
    """Return the attention of every layer of a base model.

    Raises:
        AttributeError: it cannot be computed for an unpadded batch.
    """
    make = ATTENTIONS.get(base.config.model_type)
    return [LayerAttention()] * n_layers if make is None else make(base, n_layers)


def _rotary(base: Any, *layer_type: str) -> Rotary:
    """Return the table of transformers' own module, for every position that the model has."""
    module = base.rotary_emb
    kinds = module.rope_type
    if (kinds[layer_type[0]] if layer_type else kinds) == "dynamic":
        raise AttributeError("angles depend on the longest sequence of a batch")
    positions = torch.arange(base.config.max_position_embeddings)[None]
    cos, sin = module(torch.zeros(1), positions, *layer_type)
    half = cos.shape[-1] // 2
    heads = base.config.num_attention_heads
    head_width = getattr(base.config, "head_dim", None) or base.config.hidden_size // heads
    if 2 * half != head_width:
        raise AttributeError("only a part of each head is rotated")
    return Rotary(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())


def _same_rotary(base: Any, n_layers: int) -> list[LayerAttention]:
    return [LayerAttention(_rotary(base))] * n_layers


def _local_and_global(base: Any, n_layers: int) -> list[LayerAttention]:
    """Return the attentions of layers of two types: a window for one, all tokens for the other."""
    config = base.config
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    types = {name: LayerAttention(_rotary(base, name), windows[name]) for name in sorted(set(config.layer_types))}
    return [types[name] for name in config.layer_types[:n_layers]]


def _roformer_rotary(base: Any, n_layers: int) -> list[LayerAttention]:
    sin, cos = base.encoder.embed_positions.weight.detach().chunk(2, -1)
    return [LayerAttention(Rotary(cos.contiguous(), sin.contiguous()))] * n_layers


def _distances(base: Any) -> Tensor:
    longest = base.config.max_position_embeddings
    return torch.arange(1 - longest, longest)


def _mpnet_bias(base: Any, n_layers: int) -> list[LayerAttention]:
    buckets = base.encoder.relative_position_bucket(_distances(base))
    bias = DistanceBias(base.encoder.relative_attention_bias.weight.detach()[buckets].t().contiguous())
    return [LayerAttention(bias=bias)] * n_layers


def _deberta_bias(base: Any, n_layers: int) -> list[LayerAttention]:
    """Return the biases of DeBERTa v1: an embedding for each distance."""
    if not base.config.relative_attention:
        return _without_bias(base, n_layers)
    span = base.encoder.layer[0].attention.self.max_relative_positions
    indices = (_distances(base) + span).clamp(0, 2 * span - 1)
    embeddings = base.encoder.get_rel_embedding()[: 2 * span].detach()

    def make(own: Any) -> LayerAttention:
        types = own.pos_att_type
        key = own.pos_proj(embeddings) if "c2p" in types else None
        query = own.pos_q_proj(embeddings) if "p2c" in types else None
        return _disentangled(base, key, query, indices)

    return [make(layer.attention.self) for layer in base.encoder.layer]


def _deberta_v2_bias(base: Any, n_layers: int) -> list[LayerAttention]:
    """Return the biases of DeBERTa v2 and v3: an embedding for each near distance, and for each range of far ones."""
    if not base.config.relative_attention:
        return _without_bias(base, n_layers)
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    first = base.encoder.layer[0].attention.self
    distances, span = _distances(base), first.pos_ebd_size
    if first.position_buckets > 0:
        distances = make_log_bucket_position(distances, first.position_buckets, first.max_relative_positions)
    indices = (distances.long() + span).clamp(0, 2 * span - 1)
    embeddings = base.encoder.get_rel_embedding()[: 2 * span].detach()

    def make(own: Any) -> LayerAttention:
        key_module, query_module = own.key_proj, own.query_proj
        if not own.share_att_key:
            key_module, query_module = getattr(own, "pos_key_proj", None), getattr(own, "pos_query_proj", None)
        key = key_module(embeddings) if "c2p" in own.pos_att_type else None
        query = query_module(embeddings) if "p2c" in own.pos_att_type else None
        return _disentangled(base, key, query, indices)

    return [make(layer.attention.self) for layer in base.encoder.layer]


def _without_bias(base: Any, n_layers: int) -> list[LayerAttention]:
    if base.config.pos_att_type:
        raise AttributeError("logits are scaled as with a bias, but there is none")
    return [LayerAttention()] * n_layers


def _disentangled(base: Any, key: Tensor | None, query: Tensor | None, indices: Tensor) -> LayerAttention:
    """Return the bias of one layer from (embeddings, width) keys and queries of distances."""
    if key is None and query is None:
        return LayerAttention()
    heads = base.config.num_attention_heads

    def split(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().view(len(x), heads, -1).transpose(0, 1).contiguous()

    return LayerAttention(bias=DisentangledBias(split(key), split(query), indices))


ATTENTIONS: dict[str, Callable[[Any, int], list[LayerAttention]]] = {
    "modernbert": _local_and_global,
    "ultrabert": _local_and_global,
    "gte": _same_rotary,
    "nomic_bert": _same_rotary,
    "jina_embeddings_v3": _same_rotary,
    "eurobert": _same_rotary,
    "roformer": _roformer_rotary,
    "mpnet": _mpnet_bias,
    "deberta": _deberta_bias,
    "deberta-v2": _deberta_v2_bias,
}
