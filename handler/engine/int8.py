"""Eight-bit integers: weights of -127..127 with a scale a row, activations of 0..255 with a scale a place.

All scales are found when the archive is built (scripts/archives/calibration.py) and never change: what is computed
for a text depends on no other text. Residuals stay in fp32; a norm leaves integers beside them, for the next product.

Two things keep few large numbers from taking the digits of all others. A channel that is large is divided by a factor
of its own before it is rounded, and its weights are multiplied by it (SmoothQuant: Xiao et al. 2023). Behind an
activation there is one range for all channels; what reaches beyond its top is continued in further channels, which
have the same weights and begin where that one ends: h = min(h, top) + min(max(h - top, 0), top) + ...
The file holds a whole model: the layers, and under `rest.` what stands before and behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from handler.engine.attention import Attention
from handler.engine.encoder import ACTIVATIONS, Layer, PackedEncoder, activation_of, encoder_name
from handler.engine.kernels import integers, normalise
from handler.errors import ModelMismatch

FILE = "int8.safetensors"  # in the model's folder
FORMAT = "2"
LEAST_ROWS = 256  # of an embedding that is stored in eight bits: words and positions, not segments
FEW_ROWS = 1024  # of an embedding that is laid out in fp32: it is read faster, and takes little

PLACES = ("input", "attended", "middle", "hidden")  # what is rounded in a layer: before each of its products
SMOOTHED = PLACES[:3]
READS = {"query": "input", "states": "input", "output": "attended", "up": "middle", "down": "hidden"}


class Range(NamedTuple):
    """How real numbers lie in 0..255: scale * (integer - zero)."""

    scale: float
    zero: int

    @classmethod
    def over(cls, low: float, high: float) -> Range:
        """Return the range from `low` to `high`, widened to hold 0.

        >>> Range.over(-1.0, 4.1)
        Range(scale=0.02, zero=50)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = round(max((high - low) / 255, 1e-8), 12)
        return cls(scale, round(-low / scale))


class Scales(NamedTuple):
    """How the activations of one layer are rounded."""

    ranges: dict[str, Range]  # of each of PLACES
    smoothing: dict[str, Tensor]  # (width,) by which the channels of each of SMOOTHED are divided first
    continued: Tensor  # (n,) int64: the hidden channels that further ones continue, one entry for each of those
    starts: Tensor  # (n,) where, of its channel's numbers, each of those begins


class IntegerProduct:
    """x W^T + b of integers (tokens, in)."""

    def __init__(self, stored: Mapping[str, Tensor], source: Range, units: Tensor | None = None) -> None:
        """Lay the weights out for oneDNN.

        Args:
            stored: weight (out, in) in int8, scale (out,), bias (out,).
            source: of the input.
            units: (out,) in which each output is told; by default 1.
        """
        units = torch.ones(len(stored["bias"])) if units is None else units
        self._source = source
        self._weight = torch.ops.onednn.qlinear_prepack(stored["weight"], None)
        self._scale = stored["scale"] / units
        self._bias = stored["bias"] / units
        self._zeros = torch.zeros(len(self._scale), dtype=torch.int64)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return real numbers (tokens, out)."""
        return self._run(x, 1.0, 0, dtype, "none", "")

    def activated(self, x: Tensor, activation: str, target: Range) -> Tensor:
        """Return integers (tokens, out) behind an activation."""
        name, algorithm = ACTIVATIONS[activation][:2]
        return self._run(x, target.scale, target.zero, torch.uint8, name, algorithm)

    def added(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add to a residual (tokens, out) in fp32, which is overwritten."""
        return torch.ops.onednn.qlinear_pointwise.binary(  # type: ignore[no-any-return]
            x,
            *self._source,
            *(self._weight, self._scale, self._zeros, residual, self._bias),
            *(1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""),
        )

    def _run(self, x: Tensor, scale: float, zero: int, dtype: torch.dtype, name: str, algorithm: str) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            x,
            *self._source,
            *(self._weight, self._scale, self._zeros, self._bias),
            *(scale, zero, dtype, name, [], algorithm),
        )


class Rounding:
    """From real numbers (tokens, width) to integers, each channel by a scale of its own."""

    def __init__(self, its: Range, smoothing: Tensor) -> None:
        self.units = 1 / (smoothing * its.scale)  # (width,)
        self.zero = its.zero + 0.5

    def __call__(self, x: Tensor) -> Tensor:
        return integers(torch.addcmul(torch.tensor(self.zero), x, self.units))


class IntegerNorm:
    """A layer norm of real numbers, told as such, the next residual, and rounded, what the next product reads."""

    def __init__(self, stored: Mapping[str, Tensor], eps: float, after: Rounding) -> None:
        self._weight, self._bias, self._eps, self._after = stored["weight"], stored["bias"], eps, after

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return normalise(x, self._weight, self._bias, self._eps, self._after.units, self._after.zero)


class IntegerLayer(Layer):
    """One layer. Its states are a pair: real numbers (tokens, width), and the integers they are rounded to."""

    def __init__(self, stored: Mapping[str, Tensor], activation: str, eps: float, after: Rounding) -> None:
        """Lay a stored layer out; `after` rounds its output."""
        its = _ranges(stored["ranges"])
        self._last, self._activation = "query.weight" in stored, activation
        self._attended_zero, self._hidden_range = its["attended"].zero + 0.5, its["hidden"]
        # Of values the unit is that of what is attended, for weights of attention add up to one.
        attended = stored["smoothing.attended"] * its["attended"].scale
        states = _under(stored, "states")
        units = torch.cat([torch.ones(len(states["bias"]) - len(attended)), attended])
        self._int_states = IntegerProduct(states, its["input"], units)
        self._int_query = IntegerProduct(_under(stored, "query"), its["input"]) if self._last else None
        self._int_output = IntegerProduct(_under(stored, "output"), its["attended"])
        self._int_up = IntegerProduct(_under(stored, "up"), its["middle"])
        self._int_down = IntegerProduct(_under(stored, "down"), its["hidden"])
        middle = Rounding(its["middle"], stored["smoothing.middle"])
        self._int_attention_norm = IntegerNorm(_under(stored, "attention_norm"), eps, middle)
        self._int_norm = IntegerNorm(_under(stored, "norm"), eps, after)

    def __call__(self, x: tuple[Tensor, Tensor], attention: Attention) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Compute all tokens; in the last layer those that are read, but from the keys and values of all."""
        residual, whole = x
        read = attention.read if self._last else None
        states, query = self._int_states(whole, attention.dtype), None
        if self._int_query is not None:
            asking = whole.index_select(0, read) if read is not None and attention.one_each else whole
            query = self._int_query(asking, attention.dtype)
        attended = attention(states, query, self._attended_zero)
        if read is not None:
            attended = attended if attention.one_each else attended.index_select(0, read)
            residual = residual.index_select(0, read)
        residual, middle = self._int_attention_norm(self._int_output.added(attended, residual))
        hidden = self._int_up.activated(middle, self._activation, self._hidden_range)
        return self._int_norm(self._int_down.added(hidden, residual))


class IntegerEncoder(PackedEncoder):
    """Layers of integers."""

    def __init__(self, layers: list[IntegerLayer], first: Rounding, heads: int, dtype: torch.dtype) -> None:
        super().__init__(layers, heads, dtype)
        self._first = first

    def enter(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states.clone(), self._first(states)  # residuals are added to in place

    def leave(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0]


class IntegerEmbedding(nn.Module):
    """Rows of integers, each with a scale."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids][..., None]


def supported(device: torch.device) -> bool:
    """Tell whether the device multiplies eight-bit integers in hardware, without overflow on the way (VNNI, AMX)."""
    flags = torch.cpu.get_capabilities()
    instructions = any(flags.get(flag) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return device.type == "cpu" and instructions and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


# --- the file ------------------------------------------------------------------------------------------------------


def write(path: Path, model: PreTrainedModel, scales: list[Scales]) -> None:
    """Write a model whose encoder is a settled PackedEncoder in fp32, given the scales of each of its layers."""
    base = model.base_model
    encoder: PackedEncoder = getattr(base, encoder_name(base) or "")
    tensors: dict[str, Tensor] = {}
    for index, (layer, its) in enumerate(zip(encoder.layers, scales, strict=True)):
        places = torch.tensor([its.ranges[place] for place in PLACES], dtype=torch.float64)
        named = {"ranges": places} | {f"smoothing.{place}": its.smoothing[place] for place in SMOOTHED}
        for name, product in layer.products().items():
            weight, bias = product.plain()
            if name == "up":
                weight = torch.cat([weight, weight[its.continued]])
                bias = torch.cat([bias, bias[its.continued] - its.starts])
            if name == "down":
                weight = torch.cat([weight, weight[:, its.continued]], 1)
            smoothing = its.smoothing.get(READS[name])
            integers, scale = rounded_rows(weight if smoothing is None else weight * smoothing)
            named |= {f"{name}.weight": integers, f"{name}.scale": scale, f"{name}.bias": bias}
        for name, norm in layer.norms().items():
            named |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
        tensors |= {f"layers.{index}.{name}": tensor for name, tensor in named.items()}
    tensors |= {f"rest.{name}": tensor for name, tensor in _rest(model)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": FORMAT})


def _rest(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield what is not in the layers; large embeddings in eight bits, what is tied once."""
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if name in embeddings and len(tensor) >= LEAST_ROWS:
            weight, scale = rounded_rows(tensor)
            yield name, weight
            yield name.removesuffix("weight") + "scale", scale
        else:
            yield name, tensor


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of integers -127..127, and the scale of each row."""
    scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


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
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ModelMismatch(f"{path.name} has another format than this handler reads: pack again")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return _assemble(tensors, make, config, dtype)
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, ModelMismatch):
            raise
        why = " ".join(str(error).split())[:200]
        raise ModelMismatch(f"{path.name} does not hold this model: {type(error).__name__} {why}") from error


def _assemble(
    tensors: dict[str, Tensor],
    make: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    dtype: Any,
) -> PreTrainedModel:
    n_layers = config.num_hidden_layers
    config.num_hidden_layers = 0
    try:
        with no_init_weights():
            model = make(config)
    finally:
        config.num_hidden_layers = n_layers
        model.config.num_hidden_layers = n_layers
    rest = _under(tensors, "rest")
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = output is not None and bool(getattr(config, "tie_word_embeddings", True))
    for name in [name for name, tensor in rest.items() if tensor.dtype == torch.int8]:
        place, prefix = name.removesuffix(".weight"), name.removesuffix("weight")
        scale = rest.pop(f"{prefix}scale")
        is_head = tied and model.get_submodule(place) is model.get_input_embeddings()  # it multiplies by the same rows
        if is_head or len(scale) < FEW_ROWS:
            rest[name] = rest[name].float() * scale[:, None]
        else:
            model.set_submodule(place, IntegerEmbedding(rest[name], scale))
            rest[f"{prefix}scale"] = scale
    found = model.load_state_dict(rest, strict=False, assign=True)
    if tied:
        model.tie_weights()
    head = {id(value) for value in output.parameters()} if output is not None and tied else set()
    own = model.state_dict(keep_vars=True)
    missing = [name for name in found.missing_keys if id(own[name]) not in head]
    missing = [name for name in missing if own[name].data_ptr() not in {t.data_ptr() for t in rest.values()}]
    if missing or found.unexpected_keys:
        raise ValueError(f"{[*missing, *found.unexpected_keys][:3]}")
    layers = [_under(tensors, f"layers.{index}") for index in range(n_layers)]
    roundings = [Rounding(_ranges(layer["ranges"])["input"], layer["smoothing.input"]) for layer in layers]
    activation, eps = activation_of(config), getattr(config, "layer_norm_eps", 1e-12)
    integer = [
        IntegerLayer(layer, activation or "", eps, after)  # behind the last nothing is multiplied any more
        for layer, after in zip(layers, [*roundings[1:], roundings[0]], strict=True)
    ]
    encoder = IntegerEncoder(integer, roundings[0], config.num_attention_heads, dtype)
    setattr(model.base_model, encoder_name(model.base_model) or "", encoder)
    return model


def _ranges(stored: Tensor) -> dict[str, Range]:
    return {place: Range(scale, round(zero)) for place, (scale, zero) in zip(PLACES, stored.tolist(), strict=True)}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
