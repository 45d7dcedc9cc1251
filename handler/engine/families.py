"""Where the families of transformers keep the modules around their layers, and which of them are not served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from handler.engine import weight_names
from handler.engine.linear import ACTIVATIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ENCODER_ATTRIBUTES = ("encoder", "transformer", "layers")


class Surroundings(NamedTuple):
    """Modules before and after the layers, within the module that holds them."""

    before: nn.Module | None = None
    after: nn.Module | None = None


class PackedLayers(nn.Module):
    """Our encoder in the list of a base model's layers, as the only one."""

    def __init__(self, encoder: nn.Module, attention_type: str | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention_type = attention_type  # which the base model reads of each layer

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the hidden states of the tokens that are read, as `PackedEncoder.forward`."""
        states: Tensor = self.encoder(hidden_states)[0]
        return states


RELATIVE_POSITIONS = {  # attributes of the encoder: what the attention of all its layers knows of positions
    "mpnet": "relative_attention_bias",
    "roformer": "embed_positions",
}
SURROUNDINGS: dict[str, tuple[str | None, str | None]] = {  # attributes of the encoder: before and after its layers
    "albert": ("embedding_hidden_mapping_in", None),
    "rembert": ("embedding_hidden_mapping_in", None),
    "megatron-bert": (None, "ln"),
    "xlm-roberta-xl": (None, "LayerNorm"),
}
# Families whose tokens alone are not what they were trained with -> what else there is.
FURTHER_INPUTS = {
    "canine": "characters in the place of tokens",
    "perceiver": "bytes in the place of tokens",
    "layoutlm": "the place of every word on its page",
    "layoutlmv2": "the place of every word on its page, and the picture of the page",
    "layoutlmv3": "the place of every word on its page, and the picture of the page",
    "lilt": "the place of every word on its page",
    "markuplm": "the path of every word in its HTML",
    "tapas": "the rows and columns of a table",
    "roc_bert": "the shape and the pronunciation of every character",
    "modernvbert": "pictures",
    "neomme": "pictures",
}


# Names in the config.json of models that came before their family was in transformers -> names that it reads. Others
# of theirs, e.g. of widths, have no effect that the shapes of the weights would not show.
NOMIC_SETTINGS = {
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "moe_every_n_layers": "none",
}


def unsupported_reason(config: PretrainedConfig) -> str:
    """Return why no text is computed as the model was trained, which a few tokens do not show; empty where it is."""
    further = FURTHER_INPUTS.get(config.model_type)
    if further is not None:
        return f"{config.model_type} reads {further}, which a request has not"
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        return (
            "its long texts attend to random blocks of tokens until the first short text, and then to all: write "
            '"attention_type": "original_full" in config.json'
        )
    ropes = getattr(config, "rope_parameters", None) or {}
    read = {**config.to_dict(), "rope_theta": ropes.get("rope_theta"), "none": 0}
    for name, theirs in NOMIC_SETTINGS.items() if config.model_type == "nomic_bert" else ():
        if getattr(config, name, None) not in (None, read[theirs]):
            return f"its {name} is {getattr(config, name)}, but transformers reads {theirs}: {read[theirs]}"
    types = {ropes.get("rope_type"), *(rope.get("rope_type") for rope in ropes.values() if isinstance(rope, dict))}
    if "longrope" in types:
        return "its rotary positions (longrope) depend on the longest text of a batch"
    return ""


def encoder_attribute(base: nn.Module) -> str | None:
    """Return the attribute of a base model that holds its layers; None for a family without such a module."""
    return next((name for name in ENCODER_ATTRIBUTES if isinstance(getattr(base, name, None), nn.Module)), None)


def encoder_of(base: nn.Module) -> nn.Module | None:
    """Return the module that holds the layers of a base model; None for a family without one."""
    name = encoder_attribute(base)
    encoder: nn.Module | None = None if name is None else getattr(base, name)
    if isinstance(encoder, nn.ModuleList) and len(encoder) == 1 and isinstance(encoder[0], PackedLayers):
        return encoder[0].encoder
    return encoder


def in_place_of(base: Any, encoder: nn.Module) -> nn.Module:
    """Return the module that takes the place of the one that holds the layers, so that `encoder` computes them."""
    if not isinstance(encoder_of(base), nn.ModuleList):
        return encoder
    types = getattr(base.config, "layer_types", None)
    return nn.ModuleList([PackedLayers(encoder, types[0] if types else None)])


def replace_encoder(base: nn.Module, encoder: nn.Module) -> None:
    """Let another encoder compute the layers of a base model, which must have a module for them."""
    name = encoder_attribute(base) or ENCODER_ATTRIBUTES[0]
    held: Any = getattr(base, name)
    if encoder_of(base) is not held:
        held[0].encoder = encoder  # of PackedLayers
    else:
        setattr(base, name, in_place_of(base, encoder))


def activation_of(config: PretrainedConfig) -> str | None:
    """Return the name of a model's activation; None where oneDNN has none like it."""
    name = weight_names.activation_of(config)
    return name if name in ACTIVATIONS else None


def surroundings_of(base: Any) -> Surroundings:
    """Return what the module that holds the layers has beside them."""
    names = SURROUNDINGS.get(base.config.model_type, (None, None))
    return Surroundings(*(None if name is None else getattr(base.encoder, name) for name in names))


def modules_beside_layers(base: Any) -> dict[str, nn.Module]:
    """Return the modules with weights that the module of the layers has beside them, by their attributes."""
    model_type = base.config.model_type
    names = (*SURROUNDINGS.get(model_type, ()), RELATIVE_POSITIONS.get(model_type))
    return {name: getattr(base.encoder, name) for name in names if name is not None}
