"""Write the file of a model in int8, and read it into a model of transformers; `int8_weights` says what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from handler.engine.encoder import Layer, PackedEncoder
from handler.engine.families import activation_of, encoder_of, replace_encoder
from handler.engine.family_attention import attentions_of
from handler.engine.int8 import MAX_DEQUANTIZED_ROWS, Int8Embedding, LayerQuantParams, int8_encoder, quantize_rows
from handler.engine.int8_weights import (
    EPS,
    FORMAT,
    LINEARS,
    NORMS,
    OPTIONAL_LINEARS,
    OPTIONAL_SMOOTHING,
    POINTS,
    SMOOTHING,
    errors_as_mismatch,
)
from handler.engine.int8_weights import read as read_stored
from handler.engine.kernel_operators import to_tensor
from handler.engine.linear import RMSNorm
from handler.engine.native_encoder import READS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MIN_INT8_ROWS = 256  # of an embedding that is stored in int8: words and positions, not segments


def write(path: Path, model: PreTrainedModel, params: Sequence[LayerQuantParams]) -> None:
    """Write a model whose encoder is a prepacked `PackedEncoder` in fp32, quantized by the parameters of each layer."""
    encoder = encoder_of(model.base_model)
    if not isinstance(encoder, PackedEncoder):
        raise TypeError(f"{type(model).__name__} has no packed encoder")
    tensors: dict[str, Tensor] = {}
    for index, (layer, layer_params) in enumerate(zip(encoder.layers, params, strict=True)):
        named = _quantized_layer(layer, layer_params)
        tensors |= {f"layers.{index}.{name}": tensor for name, tensor in named.items()}
    tensors |= {f"rest.{name}": tensor for name, tensor in _rest_of(model)}
    eps = encoder.layers[0].norms["output_norm"].eps
    tensors[EPS] = torch.tensor(eps, dtype=torch.float64)
    tensors["encoder.is_pre_norm"] = torch.tensor(encoder.is_pre_norm)
    metadata = {"format": FORMAT}  # one alone: safetensors writes several in another order each time
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)


def read(
    path: Path, make: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """Read a model; its weights never exist in fp32.

    Args:
        make: makes a model of a config.
        dtype: of queries, keys and values.

    Raises:
        ModelMismatch: not such a file, or of another model.
    """
    with errors_as_mismatch(path):
        rest, stored = read_stored(path, config.num_hidden_layers)
        model = _without_layers(make, config)
        _load_rest(model, {name: to_tensor(array) for name, array in rest.items()}, config)
        base = model.base_model
        attentions, activation = attentions_of(base, len(stored.layers)), activation_of(config) or ""
        encoder = int8_encoder(stored, attentions, activation, config.num_attention_heads, dtype)
        encoder.surround(base)
        replace_encoder(base, encoder)
        return model


def _quantized_layer(layer: Layer, layer_params: LayerQuantParams) -> dict[str, Tensor]:
    """Return the tensors of one layer by their names in the file."""
    split, starts = layer_params.split_channels, layer_params.split_starts
    ranges = torch.tensor([layer_params.params[point] for point in POINTS], dtype=torch.float64)
    smoothing_names = SMOOTHING | OPTIONAL_SMOOTHING
    named = {f"smoothing.{smoothing_names[point]}": divisor for point, divisor in layer_params.smoothing.items()}
    named["ranges"] = ranges
    for name, linear in layer.linears.items():
        weight, bias = linear.dense()
        if name == "intermediate":
            weight = torch.cat([weight, weight[split]])
            bias = torch.cat([bias, bias[split] - starts])
        if name == "output":
            weight = torch.cat([weight, weight[:, split]], 1)
        smoothing = layer_params.smoothing.get(READS[name])
        quantized, scale = quantize_rows(weight if smoothing is None else weight * smoothing)
        prefix = (LINEARS | OPTIONAL_LINEARS)[name]
        named |= {f"{prefix}.weight": quantized, f"{prefix}.scale": scale, f"{prefix}.bias": bias}
    for name, norm in layer.norms.items():
        named[f"{NORMS[name]}.weight"] = norm.weight
        if not isinstance(norm, RMSNorm):
            named[f"{NORMS[name]}.bias"] = norm.bias
    return named


def _rest_of(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield what is not in the layers; large embeddings in int8, tied tensors once."""
    encoder: Any = encoder_of(model.base_model)
    own = set(encoder.modules())
    modules = [(name, module) for name, module in model.named_modules() if module not in own]
    embeddings = {f"{name}.weight" for name, module in modules if isinstance(module, nn.Embedding)}
    seen: set[int] = set()
    state = model.state_dict()
    for name in sorted(state, key=lambda name: name not in embeddings):  # a decoder that is tied to them comes later
        tensor = state[name]
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if name in embeddings and len(tensor) >= MIN_INT8_ROWS:
            weight, scale = quantize_rows(tensor)
            yield name, weight
            yield name.removesuffix("weight") + "scale", scale
        else:
            yield name, tensor


def _without_layers(make: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Make a model of transformers without layers and without values."""
    from transformers.initialization import no_init_weights

    n_layers = config.num_hidden_layers
    config.num_hidden_layers = 0
    try:
        with no_init_weights():
            model = make(config)
    finally:
        config.num_hidden_layers = n_layers
        model.config.num_hidden_layers = n_layers
    return model


def _load_rest(model: PreTrainedModel, rest: dict[str, Tensor], config: PretrainedConfig) -> None:
    """Load embeddings and head; raises ValueError for missing or unexpected tensors."""
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = output is not None and bool(getattr(config, "tie_word_embeddings", True))
    for name in [name for name, tensor in rest.items() if tensor.dtype == torch.int8]:
        path, prefix = name.removesuffix(".weight"), name.removesuffix("weight")
        scale = rest.pop(f"{prefix}scale")
        is_head = tied and model.get_submodule(path) is model.get_input_embeddings()  # it multiplies by the same rows
        if is_head or len(scale) < MAX_DEQUANTIZED_ROWS:
            rest[name] = rest[name].float() * scale[:, None]
        else:
            model.set_submodule(path, Int8Embedding(rest[name], scale))
            rest[f"{prefix}scale"] = scale
    keys = model.load_state_dict(rest, strict=False, assign=True)
    if tied:
        model.tie_weights()
    head = {id(value) for value in output.parameters()} if output is not None and tied else set()
    own = model.state_dict(keep_vars=True)
    loaded = {tensor.data_ptr() for tensor in rest.values()}
    missing = [name for name in keys.missing_keys if id(own[name]) not in head and own[name].data_ptr() not in loaded]
    if missing or keys.unexpected_keys:
        raise ValueError(f"{[*missing, *keys.unexpected_keys][:3]}")
