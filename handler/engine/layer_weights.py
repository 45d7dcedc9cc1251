"""Where the families of transformers keep the weights of their layers, in one form for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from handler.engine.family_attention import attentions_of
from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_names import BERT_LAYER, DISTILBERT_LAYER, MPNET_LAYER
from handler.engine.linear import LoadedLinear


@dataclass(frozen=True)
class LayerWeights:
    """The modules of one layer: self-attention, add and norm, feed-forward, add and norm.

    With `pre_norm` the norms come first: of what the attention and the feed-forward read. With `gate` the output of
    `intermediate` is multiplied by the activation of the gate, and has none itself.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.Module | None  # None: there is no such norm
    intermediate: nn.Linear
    output: nn.Linear
    output_norm: nn.Module
    gate: nn.Linear | None = None
    pre_norm: bool = False
    attention: LayerAttention = field(default_factory=LayerAttention)

    def is_complete(self) -> bool:
        """Tell whether no module is missing."""
        optional = {"attention_norm", "gate"} if self.pre_norm else {"gate"}
        return all(module is not None for name, module in vars(self).items() if name not in optional)


def layer_weights_of(base: Any) -> list[LayerWeights]:
    """Return the weights of every layer.

    Raises:
        AttributeError: a family with other layers than those below.
    """
    family = FAMILIES.get(base.config.model_type)
    if family is None:
        raise AttributeError(f"no layers of {base.config.model_type} are known")
    return family(base)


# --- layers like those of BERT --------------------------------------------------------------------------------------

ALBERT_LAYER = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "intermediate": "ffn",
    "output": "ffn_output",
    "output_norm": "full_layer_layer_norm",
}
DEBERTA_V2_LAYER = BERT_LAYER | {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
}
PRE_NORM_LAYERS = {
    "roberta-prelayernorm": BERT_LAYER
    | {"attention_norm": "attention.LayerNorm", "output_norm": "intermediate.LayerNorm"},
    "xlm-roberta-xl": BERT_LAYER | {"attention_norm": "attention.self_attn_layer_norm", "output_norm": "LayerNorm"},
    "megatron-bert": BERT_LAYER | {"attention_norm": "attention.ln", "output_norm": "ln"},
}
PROJECTIONS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
}
GATED = {"gate": "mlp.gate_proj", "intermediate": "mlp.up_proj", "output": "mlp.down_proj"}
NOMIC_LAYER = PROJECTIONS | {"attention_norm": "post_attention_layernorm", "output_norm": "post_mlp_layernorm"}
EUROBERT_LAYER = PROJECTIONS | GATED | {"attention_norm": "input_layernorm", "output_norm": "post_attention_layernorm"}

Layers = Callable[[Any], list[LayerWeights]]


def _layers(names: dict[str, str], holder: str = "encoder.layer", **options: Any) -> Layers:
    """Return a function: a base model -> the weights of the layers that its attribute `holder` has, by their names."""

    def read(base: Any) -> list[LayerWeights]:
        layers = _at(base, holder)
        attentions = attentions_of(base, len(layers))
        return [
            _read(layer, names, attention=attention, **options)
            for layer, attention in zip(layers, attentions, strict=True)
        ]

    return read


def _read(layer: Any, names: dict[str, str], **options: Any) -> LayerWeights:
    return LayerWeights(**{key: _at(layer, name) for key, name in names.items()}, **options)


def _at(module: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), module)


# --- weights that are stored otherwise ------------------------------------------------------------------------------


def _part(module: nn.Linear, rows: Tensor | slice) -> nn.Linear:
    """Return a linear module of some of the outputs of another, with the same memory where `rows` is a slice."""
    weight, bias = module.weight.detach()[rows], None if module.bias is None else module.bias.detach()[rows]
    part = LoadedLinear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    part.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return part


def _thirds(module: nn.Linear) -> list[nn.Linear]:
    width = module.out_features // 3
    return [_part(module, slice(index * width, (index + 1) * width)) for index in range(3)]


def _modernbert(base: Any) -> list[LayerWeights]:
    layers = []
    for layer, attention in zip(base.layers, attentions_of(base, len(base.layers)), strict=True):
        query, key, value = _thirds(layer.attn.Wqkv)
        width = layer.mlp.Wo.in_features
        layers.append(
            LayerWeights(
                query,
                key,
                value,
                attention_output=layer.attn.Wo,
                attention_norm=None if isinstance(layer.attn_norm, nn.Identity) else layer.attn_norm,
                intermediate=_part(layer.mlp.Wi, slice(width, None)),
                output=layer.mlp.Wo,
                output_norm=layer.mlp_norm,
                gate=_part(layer.mlp.Wi, slice(width)),
                pre_norm=True,
                attention=attention,
            )
        )
    return layers


def _grouped(read: Layers) -> Layers:
    """Repeat the heads of keys and values that several heads of queries share."""

    def read_grouped(base: Any) -> list[LayerWeights]:
        config, layers = base.config, read(base)
        n_repeats = config.num_attention_heads // config.num_key_value_heads
        if n_repeats == 1:
            return layers
        rows = torch.arange(layers[0].key.out_features).view(config.num_key_value_heads, 1, -1)
        repeated = rows.expand(-1, n_repeats, -1).flatten()
        changed = ({name: _part(getattr(layer, name), repeated) for name in ("key", "value")} for layer in layers)
        return [LayerWeights(**{**vars(layer), **parts}) for layer, parts in zip(layers, changed, strict=True)]

    return read_grouped


def _roformer(base: Any) -> list[LayerWeights]:
    """Reorder the channels of queries and keys: RoFormer rotates neighbours, `Rotary` the halves of a head."""
    if base.config.rotary_value:
        raise AttributeError("values are rotated, too")
    heads, layers = base.config.num_attention_heads, []
    for layer in _layers(BERT_LAYER)(base):
        rows = torch.arange(layer.query.out_features).view(heads, -1, 2).transpose(1, 2).flatten()
        parts = {name: _part(getattr(layer, name), rows) for name in ("query", "key")}
        layers.append(LayerWeights(**{**vars(layer), **parts}))
    return layers


def _albert(base: Any) -> list[LayerWeights]:
    """Return the layers in the order in which they are computed: a few of them, several times."""
    config, groups = base.config, base.encoder.albert_layer_groups
    read = {id(layer): _read(layer, ALBERT_LAYER) for group in groups for layer in group.albert_layers}
    per_group = config.num_hidden_layers / config.num_hidden_groups
    order = [groups[int(index / per_group)] for index in range(config.num_hidden_layers)]
    return [read[id(layer)] for group in order for layer in group.albert_layers]


def _deberta(base: Any) -> list[LayerWeights]:
    config, layers = base.config, []
    heads = config.num_attention_heads
    for layer, attention in zip(base.encoder.layer, attentions_of(base, len(base.encoder.layer)), strict=True):
        own = layer.attention.self
        if own.head_logits_proj is not None:
            raise AttributeError("heads are mixed")
        rows = torch.arange(own.in_proj.out_features).view(heads, 3, -1)
        query, key, value = (_part(own.in_proj, rows[:, index].flatten()) for index in range(3))
        query.bias, value.bias = (nn.Parameter(bias.detach(), requires_grad=False) for bias in (own.q_bias, own.v_bias))
        names = {name: _at(layer, path) for name, path in BERT_LAYER.items() if name not in ("query", "key", "value")}
        layers.append(LayerWeights(query, key, value, **names, attention=attention))
    return layers


def _deberta_v2(base: Any) -> list[LayerWeights]:
    if base.encoder.conv is not None:
        raise AttributeError("a convolution over neighbouring tokens")
    return _layers(DEBERTA_V2_LAYER)(base)


# --- by `model_type` ------------------------------------------------------------------------------------------------

LIKE_BERT = (
    *("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text"),
    *("big_bird", "rembert"),
)
FAMILIES: dict[str, Layers] = {
    **dict.fromkeys(LIKE_BERT, _layers(BERT_LAYER)),
    "distilbert": _layers(DISTILBERT_LAYER, "transformer.layer"),
    "albert": _albert,
    "mpnet": _layers(MPNET_LAYER),
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "roformer": _roformer,
    **{name: _layers(layer, pre_norm=True) for name, layer in PRE_NORM_LAYERS.items()},
    "modernbert": _modernbert,
    "gte": _layers(NOMIC_LAYER | GATED, "layers"),
    "nomic_bert": _layers(NOMIC_LAYER | GATED, "layers"),
    "jina_embeddings_v3": _layers(NOMIC_LAYER | {"intermediate": "mlp.fc1", "output": "mlp.fc2"}, "layers"),
    "eurobert": _grouped(_layers(EUROBERT_LAYER, "layers", pre_norm=True)),
    "ultrabert": _grouped(_layers(EUROBERT_LAYER, "layers", pre_norm=True)),
}
