"""Random layers, batches longer than a tile and a chunk, and the kernels that this processor can run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from handler.batching import VarlenMetadata
from handler.engine import kernels
from handler.engine.encoder import PackedEncoder

CPU = torch.device("cpu")
WIDTH, HEADS = 96, 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}
FLAGS = torch.cpu.get_capabilities()
LEVELS = {level: needs for level, needs in kernels.LEVELS.items() if all(FLAGS.get(flag) for flag in needs)}
LENGTHS = (3, 20, 300, 7, 50, 1, 64, 65, 130)  # longer than a tile and a chunk of native/encoder.h


class Config:
    """What an encoder reads of a config."""

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
