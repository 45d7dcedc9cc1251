"""Random layers, batches longer than a tile and a chunk, and the kernels that this processor can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handler.engine import cpu, kernels
from handler.engine.batch import VarlenMetadata
from handler.engine.encoder import PackedEncoder
from handler.engine.int8 import Int8Encoder, int8_encoder, quantize_rows
from handler.engine.int8_weights import QuantParams, StoredEncoder, StoredLayer, StoredLinear
from handler.engine.kernel_operators import to_array
from handler.engine.kernels import Kind
from handler.engine.layer_weights import LayerWeights
from handler.engine.native_encoder import Floats
from tests.support.encodings import varlen_of

CPU = torch.device("cpu")
WIDTH, HEADS = 96, 4
KINDS: dict[str, Kind] = {"fp32": "fp32", "bf16": "bf16", "int8": "uint8"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}
LEVELS = {level: needs for level, needs in kernels.LEVELS.items() if cpu.has(*needs)}
LENGTHS = (3, 20, 300, 7, 50, 1, 64, 65, 130)  # longer than a tile and a chunk of native/encoder.h


class Config:
    """What an encoder reads of a config."""

    model_type = "bert"
    num_attention_heads = HEADS

    def __init__(self, activation: str) -> None:
        self.hidden_act = activation


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Return a linear module whose outputs are about as large as its inputs."""
    module = nn.Linear(n_in, n_out)
    nn.init.normal_(module.weight, std=n_in**-0.5)
    nn.init.normal_(module.bias, std=0.2)
    return module


def norm() -> nn.LayerNorm:
    """Return a layer norm with weights."""
    module = nn.LayerNorm(WIDTH, eps=1e-5)
    nn.init.normal_(module.weight, 1.0, 0.1)
    nn.init.normal_(module.bias, std=0.1)
    return module


def states_of(varlen: VarlenMetadata) -> Tensor:
    """Return random embeddings, the same ones for the same number of tokens."""
    return torch.randn(1, sum(varlen.seq_lens), WIDTH, generator=torch.Generator().manual_seed(1))


def with_all_threads(encoder: PackedEncoder) -> PackedEncoder:
    """Let a native encoder compute few tokens by all threads, too."""
    assert encoder.native is not None
    encoder.native.single_thread_tokens = 0
    return encoder


def small_passes() -> Iterator[tuple[VarlenMetadata, Tensor]]:
    """Yield passes of few tokens, of which all or some are read, with their embeddings."""
    for lengths in ((7,), (1, 2, 3, 4), (18, 18, 18), (50, 18), (40, 30, 25)):
        for reads in (None, [[0]] * len(lengths), [[length - 1, 0] for length in lengths]):
            varlen = varlen_of(*lengths, reads=reads)
            yield varlen, states_of(varlen)


def check_small_passes(encoder: PackedEncoder, repeats: int) -> None:
    """Compare small passes of several threads, also of more than there are cores, with those of one: the same bits."""
    encoder, threads = with_all_threads(encoder), torch.get_num_threads()
    try:
        for varlen, states in small_passes():
            torch.set_num_threads(1)
            alone = encode(encoder, varlen, states)
            for n in (2, 3, 8):
                torch.set_num_threads(n)
                for _ in range(repeats):
                    assert torch.equal(encode(encoder, varlen, states), alone)
    finally:
        torch.set_num_threads(threads)


def encode(encoder: PackedEncoder, varlen: VarlenMetadata, states: Tensor) -> Tensor:
    """Run an encoder."""
    with torch.inference_mode():
        return encoder.encode(states, varlen)


def reads_of(which: str) -> Sequence[Sequence[int]] | None:
    """Return the tokens that are read of each of LENGTHS."""
    return {
        "all": None,
        "first": [[0] for _ in LENGTHS],
        "several": [[length - 1, 0] if length > 1 else [0] for length in LENGTHS],
    }[which]


def quantized(weights: Sequence[LayerWeights], activation: str, dtype: torch.dtype) -> Int8Encoder:
    """Return an encoder in int8 of the weights of layers; `dtype` is that of queries, keys and values."""
    last = len(weights) - 1
    layers = [_stored_layer(layer, is_last=index == last) for index, layer in enumerate(weights)]
    stored = StoredEncoder(layers, eps=1e-5, pre_norm=weights[0].pre_norm)
    return int8_encoder(stored, [layer.attention for layer in weights], activation, HEADS, dtype)


def _stored_layer(layer: LayerWeights, *, is_last: bool) -> StoredLayer:
    """Quantize the weights of a layer; ranges that hold nearly all activations."""
    qkv = (layer.key, layer.value) if is_last else (layer.query, layer.key, layer.value)
    linears = {
        **({"query": _stored_linear(layer.query)} if is_last else {}),
        "qkv": _stored_linear(*qkv),
        "attention_output": _stored_linear(layer.attention_output),
        "intermediate": _stored_linear(layer.intermediate),
        "output": _stored_linear(layer.output),
    }
    points = ("input", "context", "attention_output")
    params = {name: QuantParams.from_range(-4.0, 4.0) for name in points}
    params["intermediate"] = QuantParams.from_range(-0.17, 4.0)
    smoothing = {name: np.linspace(0.8, 1.2, WIDTH, dtype=np.float32) for name in points}
    if layer.gate is not None:
        linears["gate"] = _stored_linear(layer.gate)
        params["intermediate"] = QuantParams.from_range(-4.0, 4.0)
        smoothing["intermediate"] = np.linspace(0.8, 1.2, layer.gate.out_features, dtype=np.float32)
    modules: dict[str, Any] = {"attention_norm": layer.attention_norm, "output_norm": layer.output_norm}
    norms = {name: _weight_and_bias(module) for name, module in modules.items() if module is not None}
    return StoredLayer(linears, norms, params, smoothing)


def _stored_linear(*modules: nn.Linear) -> StoredLinear:
    weight, scale = quantize_rows(torch.cat([module.weight.detach() for module in modules]))
    bias = torch.cat([module.bias.detach() for module in modules])
    return StoredLinear(*map(to_array, (weight, scale, bias)))


def _weight_and_bias(module: Any) -> tuple[Floats, Floats | None]:
    bias = getattr(module, "bias", None)
    return to_array(module.weight), None if bias is None else to_array(bias)
