"""Where the families of transformers keep the weights of their layers; all of them have layers like BERT's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from handler.engine.linear import ACTIVATIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ENCODER_ATTRIBUTES = ("encoder", "transformer")


@dataclass(frozen=True)
class LayerWeights:
    """The modules of one layer: self-attention, add and norm, feed-forward, add and norm."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    intermediate: nn.Linear
    output: nn.Linear
    output_norm: nn.LayerNorm

    def is_complete(self) -> bool:
        """Tell whether no module is missing."""
        return all(module is not None for module in vars(self).values())


def encoder_attribute(base: nn.Module) -> str | None:
    """Return the attribute of a base model that holds its layers; None for a family without such a module."""
    return next((name for name in ENCODER_ATTRIBUTES if isinstance(getattr(base, name, None), nn.Module)), None)


def encoder_of(base: nn.Module) -> nn.Module | None:
    """Return the module that holds the layers of a base model; None for a family without one."""
    name = encoder_attribute(base)
    return None if name is None else getattr(base, name)


def activation_of(config: PretrainedConfig) -> str | None:
    """Return the name of a model's activation; None where oneDNN has none like it."""
    name = getattr(config, "hidden_act", getattr(config, "activation", None))
    return name if isinstance(name, str) and name in ACTIVATIONS else None


def layer_weights_of(base: Any) -> Iterator[LayerWeights]:
    """Yield the weights of every layer; raises AttributeError for a family with other layers than BERT's."""
    if hasattr(base, "transformer"):
        for layer in base.transformer.layer:  # DistilBERT
            attention, ffn = layer.attention, layer.ffn
            yield LayerWeights(
                query=attention.q_lin,
                key=attention.k_lin,
                value=attention.v_lin,
                attention_output=attention.out_lin,
                attention_norm=layer.sa_layer_norm,
                intermediate=ffn.lin1,
                output=ffn.lin2,
                output_norm=layer.output_layer_norm,
            )
        return
    for layer in base.encoder.layer:  # BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA
        attention = layer.attention.self
        yield LayerWeights(
            query=attention.query,
            key=attention.key,
            value=attention.value,
            attention_output=layer.attention.output.dense,
            attention_norm=layer.attention.output.LayerNorm,
            intermediate=layer.intermediate.dense,
            output=layer.output.dense,
            output_norm=layer.output.LayerNorm,
        )
