"""Which models are computed without PyTorch, told from config.json and the names of tensors, before any is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from handler.engine import int8_weights, native_encoder
from handler.engine.kernels import Kind
from handler.engine.native_encoder import ACTIVATIONS
from handler.engine.positions import are_computed
from handler.engine.stored_weights import plain_name
from handler.engine.weight_names import FAMILIES, Family, layer_names, suffix_of, word_table
from handler.errors import ModelMismatch, RequestError
from handler.protocol import loads
from handler.weight_files import weight_files


def supported_config(folder: Path) -> dict[str, Any] | None:
    """Return the config of a model folder that can be computed without the models of transformers; None: it cannot.

    It cannot either where a file of the folder is none that it reads: whoever loads the folder then says why.
    """
    try:
        config: Any = loads((folder / "config.json").read_text(encoding="utf-8"))
        names: set[str] = set()
        for path in weight_files(folder) or [folder / int8_weights.FILE]:
            with safe_open(path, framework="np") as file:
                names.update(file.keys())
    except (OSError, ValueError, SafetensorError, RequestError):
        return None
    except ModelMismatch:  # files of weights that an index names wrongly
        return None
    return config if is_supported(config, names) else None


def is_supported(config: Any, names: Collection[str]) -> bool:
    """Tell whether a model of a config.json, and of tensors of these names, can be computed so.

    Args:
        names: of the tensors in the file for int8, or in the others.
    """
    try:
        family = FAMILIES[config["model_type"]]
        suffix = suffix_of(config["architectures"][0], family)
        if suffix is None or not _has_known_settings(config, family, suffix):
            return False
    except (KeyError, TypeError, IndexError, AttributeError):
        return False
    heads, is_tied = family.heads[suffix], bool(config.get("tie_word_embeddings", True))
    stored = {plain_name(name.removeprefix("rest."), family.prefix, family.renamed) for name in names}
    needed = {word_table(stored, family, heads) if is_tied else f"{family.words}.weight"}
    if int8_weights.EPS not in names:  # whose layers have names of their own
        layer = layer_names(family, 0, stored).values()
        needed |= {f"{where if isinstance(where, str) else where.name}.weight" for where in layer}
    return needed.union(*(head.weights(is_tied=is_tied) for head in heads)) <= stored


def supports(config: Mapping[str, Any], kind: Kind) -> bool:
    """Tell whether this processor computes the layers of such a model.

    Args:
        kind: of what linear layers read.
    """
    family = FAMILIES[config["model_type"]]
    width = config.get("hidden_size", config.get("dim", family.width))
    heads = config.get("num_attention_heads", config.get("n_heads", family.n_heads))
    layers = config.get("num_hidden_layers", config.get("n_layers", 1))
    if not all(type(number) is int and number > 0 for number in (width, heads, layers)):
        return False
    return native_encoder.supports(kind, config.get(family.activation, "gelu"), width, heads)


def _has_known_settings(config: Mapping[str, Any], family: Family, suffix: str) -> bool:
    """Tell whether positions, activations and pooling are such as are computed here."""
    transforms = (head.transform for head in family.heads[suffix])
    fields = [family.activation, *(transform.field for transform in transforms if transform and transform.field)]
    if config.get("is_decoder") or config.get("pruned_heads") or not are_computed(config):
        return False
    has_known_pooling = config.get("classifier_pooling", "cls") in ("cls", "mean")
    return has_known_pooling and all(config.get(field, "gelu") in ACTIVATIONS for field in fields)
