"""All layers of an encoder in one call of native/encoder.h: no operator between them, no thread that waits.

It computes what the layers of `encoder.py` and `int8.py` compute, in every precision, always with residuals in fp32.
Where it cannot (another processor, no compiled kernels), those layers compute by operators of PyTorch. Arrays are
numpy's, contiguous; bf16 lies in arrays of uint16.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.batching import RowLayout
from handler.engine import cpu
from handler.engine.kernels import KINDS, Kind, Norm, address, library, loaded_library
from handler.engine.packing import pack
from handler.engine.shared_weights import share

Floats: TypeAlias = NDArray[np.float32]

ACTIVATIONS = {
    "gelu": 1,
    "gelu_new": 2,
    "gelu_pytorch_tanh": 2,
    "relu": 3,
    "silu": 4,
}  # values of `enum activation` in product.h
# Linear layers of a layer -> the activation that each reads; these are the points that an observer sees.
READS = {
    "query": "input",
    "qkv": "input",
    "attention_output": "context",
    "intermediate": "attention_output",
    "gate": "attention_output",
    "output": "intermediate",
}
LANES = 16  # that are read at once, see vectors.h
# Products of numbers in a pass, up to which it is done before other threads have woken up.
SINGLE_THREAD_PRODUCTS = 32_000_000
NEEDS: dict[Kind, str] = {"fp32": "", "bf16": "avx512bf16", "uint8": ""}  # of what linear layers read -> of a processor
GROUP_SIZES: dict[Kind, int] = {"fp32": 1, "bf16": 2, "uint8": 4}  # numbers that are multiplied at once


class LinearArguments(ctypes.Structure):
    """A linear layer, as in native/product.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "start", "scale", "bias")),
        *(("groups", c_int64), ("panels", c_int64)),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, LinearArguments) for name in ("query", "qkv", "attention_output", "intermediate", "output", "gate")),
        *((name, Norm) for name in ("attention_norm", "output_norm")),
        *(("cos", c_void_p), ("sin", c_void_p), ("window", c_int64)),
        *(("bias", c_void_p), ("bias_stride", c_int64)),
        *((name, c_float) for name in ("context_zero_point", "intermediate_inv_scale", "intermediate_zero_point")),
    )


class _Encoder(ctypes.Structure):
    _fields_ = (
        ("layers", c_void_p),
        *((name, c_int64) for name in ("n_layers", "width", "intermediate_width", "n_heads")),
        *((name, c_int64) for name in ("pre_norm", "dtype", "kv_dtype", "activation")),
        *(("multiplier", c_void_p), ("zero_point", c_float), ("attention_scale", c_float)),
        *((name, c_int64) for name in ("n_sequences", "n_read", "max_seqlen")),
        *((name, c_void_p) for name in ("states", "output", "cu_seqlens", "key_lens", "read_positions")),
        *(("position_ids", c_void_p), ("scratch", c_void_p)),
    )


@dataclass
class PackedLinear:
    """A linear layer in the order of native/product.h."""

    weight: NDArray[Any]  # as packing.pack returns it; replaced when it is shared
    n_out: int
    n_groups: int  # of inputs
    start: NDArray[Any]  # (panels * panel width,): the bias in fp32; for int8 what the integer sums start at, int32
    scale: Floats | None = None  # (panels * panel width,) of the sums of int8
    bias: Floats | None = None

    @classmethod
    def in_floats(cls, weight: NDArray[Any], bias: Floats) -> PackedLinear:
        """Pack a weight (out, in) in fp32 or bf16."""
        packed = pack(weight, loaded_library().panel_width)
        return cls(packed, len(weight), _group_count(weight), _whole_panels(bias.astype(np.float32), packed))

    @classmethod
    def in_int8(cls, weight: NDArray[np.int8], scale: Floats, bias: Floats, input_zero_point: int) -> PackedLinear:
        """Pack a weight (out, in) in int8; y = scale * (sum of integers - zero point * sum of weights) + bias."""
        packed = pack(weight, loaded_library().panel_width, in_pairs=loaded_library().multiplies_pairs)
        start = -input_zero_point * weight.sum(1, dtype=np.int32)
        scale, bias = _whole_panels(scale, packed), _whole_panels(bias, packed)
        return cls(packed, len(weight), _group_count(weight), _whole_panels(start, packed), scale, bias)

    def arguments(self) -> LinearArguments:
        """Return it as native/product.h reads it."""
        addresses = (address(array) for array in (self.weight, self.start, self.scale, self.bias))
        return LinearArguments(*addresses, self.n_groups, len(self.weight))


class NativeNorm(NamedTuple):
    """A norm, and how its output is quantized for the next linear layer in int8."""

    weight: Floats
    bias: Floats
    eps: float
    multiplier: Floats | None = None
    zero_point: float = 0.0
    is_rms: bool = False  # by the root of the mean square, without a mean

    def arguments(self) -> Norm:
        """Return it as native/norm.h reads it."""
        addresses = (address(array) for array in (self.weight, self.bias, self.multiplier))
        return Norm(*addresses, self.eps, self.zero_point, self.is_rms)


class NativeBias(NamedTuple):
    """A bias on the logits of each head at each distance."""

    table: Floats  # (heads, 2 * longest - 1 + LANES) in base 2, from a key longest - 1 before its query on, then zeros
    longest: int  # tokens of a sequence

    @classmethod
    def of(cls, table: Floats) -> NativeBias:
        """Convert biases (heads, 2 * longest - 1) on natural logits."""
        in_base_2 = (table * np.float32(math.log2(math.e))).astype(np.float32)
        return cls(np.pad(in_base_2, ((0, 0), (0, LANES))), (table.shape[1] + 1) // 2)

    @property
    def address(self) -> int:
        """Of the bias of the first head at distance 0."""
        return address(self.table) + (self.longest - 1) * self.table.itemsize


class NativeLayer(NamedTuple):
    """The parts of one layer."""

    linears: dict[str, PackedLinear]  # by the keys of `READS`
    attention_norm: NativeNorm | None  # None: before a half that reads the residual itself
    output_norm: NativeNorm
    context_zero_point: float = 0.0
    intermediate_inv_scale: float = 1.0
    intermediate_zero_point: float = 0.0
    angles: tuple[Floats, Floats] | None = None  # cos and sin (positions, head width / 2) of rotary positions
    window: int = 0  # a token attends to those at most so far away; 0: to all
    bias: NativeBias | None = None

    def require_shapes(self, width: int, n_heads: int, group_size: int) -> None:
        """Raise ValueError where a weight has another shape than states of a width need.

        Args:
            group_size: see `GROUP_SIZES`.
        """
        inner = self.linears["intermediate"].n_out
        n_parts = 2 if "query" in self.linears else 3
        expected = {
            "query": (width, width),
            "qkv": (n_parts * width, width),
            "attention_output": (width, width),
            "intermediate": (inner, width),
            "gate": (inner, width),
            "output": (width, inner),
        }
        for name, linear in self.linears.items():
            n_out, n_in = expected[name]
            if (linear.n_out, linear.n_groups) != (n_out, -(-n_in // group_size)):
                raise ValueError(f"{name} is no weight of {n_out} by {n_in}")
        for norm in (self.attention_norm, self.output_norm):
            arrays = () if norm is None else (norm.weight, norm.bias, norm.multiplier)
            if any(array is not None and array.shape != (width,) for array in arrays):
                raise ValueError(f"a norm has not {width} weights")
        if self.bias is not None and len(self.bias.table) != n_heads:
            raise ValueError(f"a bias of distances for {len(self.bias.table)} heads of {n_heads}")

    def arguments(self) -> _Layer:
        linears = {name: linear.arguments() for name, linear in self.linears.items()}
        norms = {"attention_norm": self.attention_norm, "output_norm": self.output_norm}
        cos, sin = (None, None) if self.angles is None else self.angles
        return _Layer(
            **linears,
            **{name: norm.arguments() for name, norm in norms.items() if norm is not None},
            cos=address(cos),
            sin=address(sin),
            window=self.window,
            bias=0 if self.bias is None else self.bias.address,
            bias_stride=0 if self.bias is None else self.bias.table.shape[1],
            context_zero_point=self.context_zero_point,
            intermediate_inv_scale=self.intermediate_inv_scale,
            intermediate_zero_point=self.intermediate_zero_point,
        )


class NativeEncoder:
    """Layers over packed rows: (tokens, width) in fp32 -> hidden states of the tokens that are read, in fp32."""

    def __init__(
        self,
        layers: Sequence[NativeLayer],
        n_heads: int,
        kind: Kind,
        kv_kind: Kind,
        activation: str,
        multiplier: Floats | None = None,
        zero_point: float = 0.0,
        *,
        pre_norm: bool = False,
    ) -> None:
        """Keep the layers, all of which must have been packed; the last one must have "query".

        Args:
            kind: of what linear layers read.
            kv_kind: of queries, keys and values: fp32 or bf16.
            multiplier: (width,) that quantizes the embeddings, with `zero_point`.
            pre_norm: whether norms are computed of what the halves of a layer read, not of what they return.

        Raises:
            ValueError: weights that do not fit each other, which the kernels would read beyond.
        """
        self._library, self._kind = loaded_library(), kind
        self._multiplier = multiplier  # which must live as long as its address
        tables = [layer.angles[0] for layer in layers if layer.angles is not None]
        self._n_positions = min((len(table) for table in tables), default=None)  # None: they do not rotate
        biases = (layer.bias for layer in layers if layer.bias is not None)
        self._longest = min((bias.longest for bias in biases), default=None)  # None: any sequence
        self.width = width = len(layers[0].output_norm.weight)
        for layer in layers:
            layer.require_shapes(width, n_heads, GROUP_SIZES[kind])
        self._args = _Encoder(
            n_layers=len(layers),
            width=width,
            intermediate_width=max(layer.linears["intermediate"].n_out for layer in layers),
            n_heads=n_heads,
            pre_norm=pre_norm,
            dtype=KINDS[kind],
            kv_dtype=KINDS[kv_kind],
            activation=ACTIVATIONS[activation],
            multiplier=address(multiplier),
            zero_point=zero_point,
            attention_scale=(width // n_heads) ** -0.5 * math.log2(math.e),
        )
        weights = [linear.weight for layer in layers for linear in layer.linears.values()]
        self.single_thread_tokens = SINGLE_THREAD_PRODUCTS // sum(weight.size for weight in weights)
        self._scratch: list[NDArray[np.uint8]] = []  # memory that no pass uses now
        self._layers = list(layers)  # which must live as long as their addresses
        self._take_addresses()

    def share(self, folder: Path, beside: Sequence[NDArray[Any]] = ()) -> list[NDArray[Any]]:
        """Move the weights to a file of a folder, which other processes share; see `shared_weights`.

        Args:
            beside: other arrays for the same file, which are returned where they lie then.
        """
        linears = {id(linear): linear for layer in self._layers for linear in layer.linears.values()}
        kind = "int8" if self._kind == "uint8" else self._kind
        weights = [linear.weight for linear in linears.values()]
        shared = share([*weights, *beside], folder / f"{self._library.level}-{kind}.weights")
        for linear, weight in zip(linears.values(), shared[: len(weights)], strict=True):
            linear.weight = weight
        self._take_addresses()
        return shared[len(weights) :]

    def _take_addresses(self) -> None:
        self._structures = (_Layer * len(self._layers))(*(layer.arguments() for layer in self._layers))
        self._args.layers = ctypes.addressof(self._structures)

    def __call__(self, states: Floats, layout: RowLayout) -> Floats:
        """Compute the hidden states (tokens read, width) of embeddings (tokens, width)."""
        args = _Encoder.from_buffer_copy(self._args)
        states, read = np.ascontiguousarray(states), layout.read_positions
        args.n_sequences, args.max_seqlen = len(layout.cu_seqlens) - 1, layout.max_seqlen
        args.n_read = len(states) if read is None else len(read)
        output = np.empty((args.n_read, args.width), np.float32)
        args.states, args.output, args.cu_seqlens = address(states), address(output), address(layout.cu_seqlens)
        args.key_lens, args.read_positions = address(layout.key_lens), address(read)
        if self._n_positions is not None:
            positions = layout.position_ids
            if positions is None or int(positions.max()) >= self._n_positions:
                raise ValueError(f"rotary positions need the position ids of the batch, all below {self._n_positions}")
            args.position_ids = address(positions)
        if self._longest is not None and layout.max_seqlen > self._longest:
            raise ValueError(f"a sequence of {layout.max_seqlen} tokens: the bias of distances is for {self._longest}")
        threads = 1 if len(states) <= self.single_thread_tokens else cpu.thread_count()
        size = self._library.encoder_scratch(ctypes.addressof(args), threads)
        scratch = self._take_scratch(size)
        args.scratch = -(-address(scratch) // 64) * 64  # aligned to a cache line
        self._library.encode(ctypes.addressof(args), threads)
        self._scratch.append(scratch)
        return output

    def _take_scratch(self, size: int) -> NDArray[np.uint8]:
        """Return memory of that many bytes and a cache line; what is too small is released."""
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = np.empty(0, np.uint8)
        return scratch if len(scratch) >= size + 64 else np.empty(size + size // 4 + 64, np.uint8)


def supports(kind: Kind | None, activation: str, width: int, n_heads: int) -> bool:
    """Tell whether this processor computes a model here.

    Args:
        kind: of what linear layers read; None: another one than those here.
        activation: a key of `linear.ACTIVATIONS`.
    """
    functions = library()
    if functions is None or kind is None or activation not in ACTIVATIONS:
        return False
    fits = width % n_heads == 0 and width % GROUP_SIZES[kind] == 0
    return fits and NEEDS[kind] in functions.level


def _group_count(weight: NDArray[Any]) -> int:
    return -(-int(weight.shape[1]) * weight.itemsize // 4)


def _whole_panels(values: NDArray[Any], packed: NDArray[Any]) -> NDArray[Any]:
    """Fill a value of each output up to whole panels with zeros."""
    panels, _, panel_width, _ = packed.shape
    return np.pad(values, (0, panels * panel_width - len(values)))
