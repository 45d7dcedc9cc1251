"""The probe: a few short sequences on which two ways to compute a model must agree, and what is compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.batching import Batch
from handler.sequences import Encoding
from handler.tasks import Output, Pooler, RaggedOutput

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from handler.engine.runner import ModelRunner

RTOL, ATOL = 1e-3, 1e-4


class HiddenStates(Pooler):
    """The last hidden states of all tokens, without any task."""

    forward_scope = "encoder"

    def pool(self, output: Any, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output[0]), batch.counts)


def probe_of(model_config: PretrainedConfig) -> list[Encoding]:
    """Return sequences of different and of equal lengths, of random tokens; one is longer than a window, if any."""
    max_length = getattr(model_config, "max_position_embeddings", 512) or 512
    window = getattr(model_config, "sliding_window", None)
    lengths = [9, 5, 5, 2] if window is None else [window + min(window, 64) + 7, 9, 5, 5, 2]
    return random_encodings(model_config, [length for length in lengths if length <= max_length])


def random_encodings(model_config: PretrainedConfig, lengths: Iterable[int]) -> list[Encoding]:
    """Return sequences of random tokens, the same ones every time."""
    generator = np.random.default_rng(0)
    low = min(10, model_config.vocab_size - 1)  # past the padding id, which some families look for
    return [
        Encoding(generator.integers(low, model_config.vocab_size, length).tolist(), [0] * length) for length in lengths
    ]


def probe_outputs(runner: ModelRunner, main: Pooler, probe: list[Encoding]) -> list[Output]:
    """Return the hidden states of every sequence, and then the outputs of the main pooler."""
    return [*runner.forward(HiddenStates(), probe), *runner.forward(main, probe)]


def outputs_allclose(output: Output, expected: Output) -> bool:
    """Tell whether two outputs are equal but for rounding."""
    return output.shape == expected.shape and np.allclose(output, expected, rtol=RTOL, atol=ATOL)
