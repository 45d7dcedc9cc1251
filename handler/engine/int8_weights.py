"""int8: weights -127..127 with a scale for each output, activations 0..255 with a scale for each quantization point.

All scales are computed when the archive is built (scripts/archives/calibration.py) and never change, so the output for
a text depends on no other text. Residuals stay in fp32; a norm writes quantized values beside them, for the next linear
layer.

Two methods keep a few large values from taking the precision of all others. A channel with large values is divided by
a factor of its own before it is quantized, and its weights are multiplied by it (SmoothQuant: Xiao et al. 2023). After
an activation function all channels share one range; values above its top are moved to additional channels, which
have the same weights and start where the range ends: h = min(h, top) + min(max(h - top, 0), top) + ... (outlier channel
splitting). With a gate the factors divide what the gate multiplies, and nothing is split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from handler.engine.device import AnyDevice
from handler.engine.kernels import Kind, library
from handler.engine.native_encoder import READS, Floats, NativeEncoder, NativeLayer, NativeNorm, PackedLinear
from handler.engine.native_encoder import supports as native_supports
from handler.errors import ModelMismatch
from handler.tensor_files import read_metadata, read_safetensors

FILE = "int8.safetensors"  # in the model folder
FORMAT = "3"
EPS = "encoder.eps"  # a tensor that no other file of weights has: the epsilon of all norms

# Names in the code -> names in a file of this format.
LINEARS = {"qkv": "states", "attention_output": "output", "intermediate": "up", "output": "down"}
OPTIONAL_LINEARS = {"query": "query", "gate": "gate"}  # queries apart in the last layer alone
NORMS = {"attention_norm": "attention_norm", "output_norm": "norm"}
SMOOTHING = {"input": "input", "context": "attended", "attention_output": "middle"}
OPTIONAL_SMOOTHING = {"intermediate": "gated"}

POINTS = ("input", "context", "attention_output", "intermediate")  # activations that are quantized in a layer
SMOOTHED = POINTS[:3]  # and the last one, in a layer with a gate


class QuantParams(NamedTuple):
    """Affine quantization of real numbers to 0..255: scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    @classmethod
    def from_range(cls, low: float, high: float) -> QuantParams:
        """Return the parameters of the range from `low` to `high`, widened to hold 0.

        >>> QuantParams.from_range(-1.0, 4.1)
        QuantParams(scale=0.02, zero_point=50)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = round(max((high - low) / 255, 1e-8), 12)
        return cls(scale, round(-low / scale))


class StoredLinear(NamedTuple):
    """The quantized weights of a linear layer, as the file holds them."""

    weight: NDArray[np.int8]  # (out, in)
    scale: Floats  # (out,)
    bias: Floats  # (out,)


class StoredLayer(NamedTuple):
    """One layer, as the file holds it."""

    linears: dict[str, StoredLinear]  # by the keys of `READS`
    norms: dict[str, tuple[Floats, Floats | None]]  # by the names of `Layer`: weight, and bias; None: an RMSNorm
    params: dict[str, QuantParams]  # of each of POINTS
    smoothing: dict[str, Floats]  # as of LayerQuantParams

    def output_units(self) -> dict[str, Floats]:
        """Return what the outputs of a linear layer are divided by, where it is not 1.

        Values are divided by the scale of the context: attention weights add up to one, so the context is as well.
        """
        context_unit = self.smoothing["context"] * self.params["context"].scale
        n_keys = len(self.linears["qkv"].bias) - len(context_unit)
        units = {"qkv": np.concatenate([np.ones(n_keys, np.float32), context_unit])}
        return units | ({"intermediate": self.smoothing["intermediate"]} if "gate" in self.linears else {})


class StoredEncoder(NamedTuple):
    """All layers, as the file holds them."""

    layers: list[StoredLayer]
    eps: float  # of all norms
    pre_norm: bool  # whether norms are computed of what the halves of a layer read, not of what they return


class Quantize(NamedTuple):
    """Quantization of real numbers (tokens, width) to x * multiplier + zero_point, clamped to 0..255 and truncated."""

    multiplier: Floats  # (width,)
    zero_point: float  # plus 0.5: truncation then rounds to the nearest

    @classmethod
    def of(cls, params: QuantParams, smoothing: Floats) -> Quantize:
        """Divide each channel by its smoothing factor first."""
        return cls(1 / (smoothing * np.float32(params.scale)), params.zero_point + 0.5)


def read(path: Path, n_layers: int) -> tuple[dict[str, NDArray[Any]], StoredEncoder]:
    """Read everything but the layers, and the layers.

    Raises:
        ModelMismatch: another format.
        KeyError: a tensor is missing.
    """
    if read_metadata(path).get("format") != FORMAT:
        raise ModelMismatch(f"{path.name} has another format than this handler reads: pack again")
    tensors = read_safetensors(path)
    layers = [_stored_layer(_with_prefix(tensors, f"layers.{index}")) for index in range(n_layers)]
    stored = StoredEncoder(layers, float(tensors[EPS]), bool(tensors["encoder.is_pre_norm"]))
    return _with_prefix(tensors, "rest"), stored


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


def norms_of(stored: StoredEncoder) -> list[dict[str, NativeNorm]]:
    """Return the norms of each layer, each of which quantizes for the linear layers that read it."""
    inputs = [Quantize.of(layer.params["input"], layer.smoothing["input"]) for layer in stored.layers]
    middles = [
        Quantize.of(layer.params["attention_output"], layer.smoothing["attention_output"]) for layer in stored.layers
    ]
    firsts, seconds = (inputs, middles) if stored.pre_norm else (middles, [*inputs[1:], inputs[0]])  # the last: nothing
    quantizers = {"attention_norm": firsts, "output_norm": seconds}
    return [
        {name: _norm(*norm, stored.eps, quantizers[name][index]) for name, norm in layer.norms.items()}
        for index, layer in enumerate(stored.layers)
    ]


def _norm(weight: Floats, bias: Floats | None, eps: float, quantize: Quantize) -> NativeNorm:
    return NativeNorm(weight, np.zeros_like(weight) if bias is None else bias, eps, *quantize, is_rms=bias is None)


def native_encoder(
    stored: StoredEncoder,
    attentions: Sequence[Mapping[str, Any]],
    activation: str,
    n_heads: int,
    kv_kind: Kind,
) -> NativeEncoder | None:
    """Return the native encoder of stored layers; None: this processor has none for them.

    Args:
        attentions: what the attention of each layer has beside queries, keys and values, as arguments of `NativeLayer`.
        kv_kind: of queries, keys and values.
    """
    first = stored.layers[0]
    width = len(first.smoothing["input"])
    if len(first.smoothing["context"]) != width or not native_supports("uint8", activation, width, n_heads):
        return None
    parts = zip(stored.layers, norms_of(stored), attentions, strict=True)
    layers = [_native_layer(layer, norms, attention) for layer, norms, attention in parts]
    quantize = Quantize.of(first.params["input"], first.smoothing["input"])
    return NativeEncoder(layers, n_heads, "uint8", kv_kind, activation, *quantize, pre_norm=stored.pre_norm)


def _native_layer(stored: StoredLayer, norms: Mapping[str, NativeNorm], attention: Mapping[str, Any]) -> NativeLayer:
    """Return a stored layer for the native encoder; see `int8.Int8Layer`, which computes the same by operators."""
    params, units = stored.params, stored.output_units()
    linears = {}
    for name, linear in stored.linears.items():
        input_params, unit = params[READS[name]], units.get(name, np.ones((), np.float32))
        scale, bias = linear.scale * np.float32(input_params.scale) / unit, linear.bias / unit
        linears[name] = PackedLinear.in_int8(linear.weight, scale, bias, input_params.zero_point)
    return NativeLayer(
        linears,
        attention_norm=norms.get("attention_norm"),
        output_norm=norms["output_norm"],
        context_zero_point=params["context"].zero_point + 0.5,
        intermediate_inv_scale=1 / params["intermediate"].scale,
        intermediate_zero_point=params["intermediate"].zero_point + 0.5,
        **attention,
    )


def _stored_layer(tensors: Mapping[str, NDArray[Any]]) -> StoredLayer:
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


def _with_prefix(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def has_float_weights(folder: Path) -> bool:
    """Tell whether a model folder may hold weights in floating point; if not, transformers will say what it lacks."""
    own = folder / FILE
    return not own.is_file() or any(file != own for file in folder.glob("*.safetensors"))


def supported(device: AnyDevice) -> bool:
    """Tell whether the compiled kernels or oneDNN multiply eight-bit integers on the device without overflow."""
    if device.type != "cpu" or library() is not None:
        return device.type == "cpu"
    from handler.engine.int8 import onednn_is_exact  # and with it PyTorch, which computes without the kernels

    return onednn_is_exact()
