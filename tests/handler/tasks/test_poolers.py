"""Poolers of numpy arrays and of tensors: the same values of the same outputs, and of a text the same in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handler.activations import ACTIVATIONS
from handler.arrays import Weight, split, use_product
from handler.batching import PackedRow
from handler.engine.batch import TensorBatch
from handler.engine.native_layers import multiply
from handler.sentence_layers import Dense, Layer, LayerNormModule, normalize
from handler.sentence_modules import POOLING_MODES, EmbeddingModules, SpladePooling
from handler.tasks.embedding import SentencePooler, SparsePooler
from handler.tasks.fill_mask import TopTokens
from handler.tasks.late_interaction import TokenPooler
from handler.tasks.next_sentence import NextSentencePrediction
from handler.tasks.queries import Pooler
from handler.tasks.question_answering import QuestionAnswering
from handler.tasks.sequence_classification import SequenceClassification
from handler.tasks.token_classification import TokenClassification
from tests.support.encodings import random_words

WIDTH, VOCABULARY, LABELS = 48, 100, 3
LENGTHS = (90, 65, 50, 20, 20, 20, 7, 3, 1)
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(WIDTH**-0.5)


class Outputs(dict[str, Any]):
    """The outputs of a model by name, or by their index."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class Case(NamedTuple):
    """A pooler, and whether the logits that it gets are those of tokens; otherwise of texts."""

    pooler: Pooler
    has_token_logits: bool = False

    def values(self, lengths: Sequence[int], *, of_tensors: bool = False) -> list[NDArray[np.float32]]:
        """Return the values of each text of a batch, whose outputs are random by its length and its index."""
        encodings = random_words(*lengths)
        positions = [self.pooler.token_positions(encoding) for encoding in encodings]
        reads = [read for read in positions if read is not None] or None
        arrays = self._output(lengths)
        if of_tensors:
            batch = TensorBatch.packed(encodings, torch.device("cpu"), reads=reads)
            one_row = {k: array if len(array) == len(lengths) else array[None] for k, array in arrays.items()}
            with torch.inference_mode():
                output: Any = Outputs({name: torch.from_numpy(array) for name, array in one_row.items()})
                ragged = self.pooler.pool(output, batch)
            assert isinstance(ragged.values, torch.Tensor)
            return split(ragged.values.numpy(), ragged.counts)
        ragged = self.pooler.pool(arrays, PackedRow.of(encodings, reads=reads))
        assert isinstance(ragged.values, np.ndarray)
        assert ragged.values.dtype == np.float32
        return split(ragged.values, ragged.counts)

    def _output(self, lengths: Sequence[int]) -> Any:
        parts: dict[str, list[NDArray[np.float32]]] = {}
        for index, length in enumerate(lengths):
            random = np.random.default_rng((index, length))
            logits = (length, VOCABULARY) if self.has_token_logits else (1, LABELS)
            shapes = {"states": (length, WIDTH), "logits": logits, "start_logits": (length,), "end_logits": (length,)}
            for name, shape in shapes.items():
                parts.setdefault(name, []).append(random.standard_normal(shape, dtype=np.float32))
        return Outputs({name: np.concatenate(of_texts) for name, of_texts in parts.items()})


def own_pooler(task: type[Any]) -> Pooler:
    """Return the pooler that a task itself is, without its model."""

    class OwnPooler(Pooler):
        output_names = getattr(task, "output_names", ())
        token_positions = task.token_positions
        pool = task.pool

    return OwnPooler()


def layers(activation: str = "Tanh") -> tuple[Layer, ...]:
    """Return one layer of each kind."""
    weight, row = Weight(WEIGHTS), Weight(WEIGHTS[0])
    return (
        Dense(weight, row, activation),
        Dense(weight, None, "Identity", has_residual=True),
        Dense(weight, row, "ReLU", has_residual=True, residual_weight=Weight(WEIGHTS.T.copy())),
        LayerNormModule(row, Weight(WEIGHTS[1])),
        normalize,
    )


use_product(multiply)  # as the engine does whose models compute arrays

CASES: dict[str, Case] = {
    **{mode: Case(SentencePooler((mode,))) for mode in POOLING_MODES},
    **{f"{mode} without a prompt": Case(SentencePooler((mode,), 4)) for mode in POOLING_MODES},
    **{"+".join(modes): Case(SentencePooler(modes)) for modes in combinations(POOLING_MODES, 2)},
    "splade": Case(SparsePooler(SpladePooling(), VOCABULARY), has_token_logits=True),
    "splade, sum, twice": Case(SparsePooler(SpladePooling("sum", log_twice=True), VOCABULARY), has_token_logits=True),
    "top tokens": Case(TopTokens(1500), has_token_logits=True),
    "top tokens of some": Case(TopTokens(1500, [5, 3, 70]), has_token_logits=True),
    "tokens": Case(TokenPooler(EmbeddingModules(layers=layers()).project)),
    "tokens without layers": Case(TokenPooler(EmbeddingModules().project)),
    **{task.name: Case(own_pooler(task)) for task in (SequenceClassification, NextSentencePrediction)},
    **{task.name: Case(own_pooler(task), True) for task in (TokenClassification, QuestionAnswering)},
}


@pytest.mark.parametrize("name", CASES)
def test_values_of_arrays_are_those_of_tensors(name: str) -> None:
    """Within the rounding of fp32."""
    for values, others in zip(CASES[name].values(LENGTHS), CASES[name].values(LENGTHS, of_tensors=True), strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_text_has_the_same_bits_in_any_batch(name: str) -> None:
    """It is computed alone, beside others, and beside all."""
    together = CASES[name].values(LENGTHS)
    for n in (1, 2, 5):
        for values, others in zip(CASES[name].values(LENGTHS[:n]), together, strict=False):
            np.testing.assert_array_equal(values, others, strict=True)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS.keys() - {"GLU"}))  # which halves the width
def test_layers_of_arrays_are_those_of_tensors(activation: str) -> None:
    """Dense with each activation and residual, LayerNorm and Normalize, of one vector and of several."""
    vectors = RANDOM.standard_normal((9, WIDTH), dtype=np.float32)
    modules = EmbeddingModules(layers=layers(activation), classifier=layers())
    for part in (vectors[:1], vectors):
        for apply in (modules.project, modules.logits):
            np.testing.assert_allclose(apply(part), apply(torch.from_numpy(part)).numpy(), rtol=1e-5, atol=5e-6)
