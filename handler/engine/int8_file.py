"""The file of a model in int8: the layers, and under `rest.` everything before and after them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from handler.engine.encoder import READS, Layer, PackedEncoder
from handler.engine.families import activation_of, encoder_of, replace_encoder
from handler.engine.family_attention import attentions_of
from handler.engine.int8 import (
    MAX_DEQUANTIZED_ROWS,
    POINTS,
    Int8Embedding,
    Int8Encoder,
    LayerQuantParams,
    QuantParams,
    StoredEncoder,
    StoredLayer,
    StoredLinear,
    int8_encoder,
    quantize_rows,
)
from handler.engine.layer_attention import LayerAttention
from handler.engine.linear import RMSNorm
from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FORMAT = "3"
MIN_INT8_ROWS = 256  # of an embedding that is stored in int8: words and positions, not segments

# Names in the code -> names in a file of this format.
LINEARS = {"qkv": "states", "attention_output": "output", "intermediate": "up", "output": "down"}
OPTIONAL_LINEARS = {"query": "query", "gate": "gate"}  # queries apart in the last layer alone
NORMS = {"attention_norm": "attention_norm", "output_norm": "norm"}
SMOOTHING = {"input": "input", "context": "attended", "attention_output": "middle"}
OPTIONAL_SMOOTHING = {"intermediate": "gated"}


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
    tensors["encoder.eps"] = torch.tensor(eps, dtype=torch.float64)
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
        rest, stored = read_tensors(path, config.num_hidden_layers)
        model = _without_layers(make, config)
        _load_rest(model, rest, config)
        base = model.base_model
        encoder = encoder_of_stored(stored, attentions_of(base, len(stored.layers)), config, dtype)
        encoder.surround(base)
        replace_encoder(base, encoder)
        return model


def read_tensors(path: Path, n_layers: int) -> tuple[dict[str, Tensor], StoredEncoder]:
    """Read everything but the layers, and the layers.

    Raises:
        ModelMismatch: another format.
        KeyError: a tensor is missing.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ModelMismatch(f"{path.name} has another format than this handler reads: pack again")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    layers = [_stored_layer(_with_prefix(tensors, f"layers.{index}")) for index in range(n_layers)]
    stored = StoredEncoder(layers, float(tensors["encoder.eps"]), bool(tensors["encoder.is_pre_norm"]))
    return _with_prefix(tensors, "rest"), stored


def encoder_of_stored(
    stored: StoredEncoder, attentions: Sequence[LayerAttention], config: PretrainedConfig, dtype: torch.dtype
) -> Int8Encoder:
    """Return the encoder of stored layers.

    Args:
        attentions: what the attention of each layer has beside queries, keys and values.
        dtype: of queries, keys and values.
    """
    return int8_encoder(stored, attentions, activation_of(config) or "", config.num_attention_heads, dtype)


@contextlib.contextmanager
def errors_as_mismatch(path: Path) -> Iterator[None]:
    """Raise ModelMismatch for an error of a file that does not hold the model."""
    try:
        yield
    except ModelMismatch:
        raise
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelMismatch(f"{path.name} does not hold this model: {type(error).__name__} {reason}") from error


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
    for name, tensor in model.state_dict().items():
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


def _stored_layer(tensors: Mapping[str, Tensor]) -> StoredLayer:
    """Find the parts of one layer; raises KeyError where one is missing."""
    params = {
        point: QuantParams(scale, round(zero_point))
        for point, (scale, zero_point) in zip(POINTS, tensors["ranges"].tolist(), strict=True)
    }
    linears = {
        name: StoredLinear(tensors[f"{prefix}.weight"], tensors[f"{prefix}.scale"], tensors[f"{prefix}.bias"])
        for name, prefix in (LINEARS | OPTIONAL_LINEARS).items()
        if name not in OPTIONAL_LINEARS or f"{prefix}.weight" in tensors
    }
    norms = {
        name: (tensors[f"{prefix}.weight"], tensors.get(f"{prefix}.bias"))
        for name, prefix in NORMS.items()
        if name != "attention_norm" or f"{prefix}.weight" in tensors  # the first layer of some families has none
    }
    smoothing = {point: tensors[f"smoothing.{name}"] for point, name in SMOOTHING.items()}
    if "gate" in linears:
        smoothing |= {point: tensors[f"smoothing.{name}"] for point, name in OPTIONAL_SMOOTHING.items()}
    return StoredLayer(linears, norms, params, smoothing)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
