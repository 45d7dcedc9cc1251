"""Our own encoder: the numbers of transformers, whichever tokens are read and whatever lies beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from handler.batching import Batch, VarlenMetadata
from handler.engine import Engine, kernels
from handler.engine.attention import Attention, attend
from handler.engine.encoder import PackedEncoder, rounded
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from handler.sequences import Encoding
from handler.tasks import Pooler
from tests.handler.engine.test_engine import FAMILIES, encodings, family
from tests.support.samples import MakeModel, MakePredictor

CPU = torch.device("cpu")
LENGTHS = (3, 20, 8, 7, 50, 20, 90, 1, 64, 65)


def packing_of(*lengths: int, reads: Sequence[Sequence[int]] | None = None) -> VarlenMetadata:
    """Return how sequences of these lengths lie in one row."""
    packing = Batch.packed(encodings(*lengths), CPU, reads=reads).varlen
    assert packing is not None
    return packing


class Chosen(HiddenStates):
    """The states of some tokens of each sequence."""

    def __init__(self, *places: int) -> None:
        self.places = places

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return [place for place in self.places if place < len(encoding)] or [0]


def states(engine: Engine, use: Pooler, sequences: list[Encoding]) -> list[np.ndarray[Any, Any]]:
    """Return the values of each sequence."""
    return engine.run(sequences, [use] * len(sequences))  # type: ignore[return-value]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Albert"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_any_tokens_of_any_family(name: str, activation: str, make_model: MakeModel) -> None:
    """All tokens, the first of each sequence, or several: the states are those of transformers, padded."""
    key = "activation" if name == "DistilBert" else "hidden_act"
    settings = {**FAMILIES[name], key: activation, "max_position_embeddings": 100}
    folder = family(name, settings, make_model)
    ours, theirs = load_predictor(folder).engine, load_predictor(folder, packed=False).engine
    base = ours.model.base_model
    assert isinstance(getattr(base, "encoder", None) or base.transformer, PackedEncoder)
    sequences = encodings(*LENGTHS)
    for use in (HiddenStates(), Chosen(0), Chosen(0, 5), Chosen(2)):
        for one, other in zip(states(ours, use, sequences), states(theirs, use, sequences), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


def test_rows_that_fill_up_are_no_tokens(make_model: MakeModel) -> None:
    """Few numbers of rows reach oneDNN, whatever the lengths, and none of the further ones is seen."""
    engine = load_predictor(make_model()).engine
    encoder = engine.model.base_model.encoder
    entered, enter = [], encoder.enter

    def count(hidden: torch.Tensor) -> Any:
        entered.append(len(hidden))
        return enter(hidden)

    encoder.enter = count
    for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
        encoder.fills = True
        filled = states(engine, use, encodings(*LENGTHS))
        encoder.fills = False
        for one, other in zip(filled, states(engine, use, encodings(*LENGTHS)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert set(entered[::2]) == {rounded(sum(LENGTHS))}
    assert set(entered[1::2]) == {sum(LENGTHS)}
    assert len({rounded(n) for n in range(1, 1025)}) == 48


def test_an_unknown_activation_keeps_the_modules_of_transformers(make_model: MakeModel) -> None:
    """Such a model travels packed all the same."""
    engine = load_predictor(make_model(hidden_act="silu")).engine
    assert engine.packed
    assert not isinstance(engine.model.base_model.encoder, PackedEncoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [LENGTHS, (100, 90, 90, 200), (1,), (1, 1), (8, 8)])
@pytest.mark.parametrize("width", [16, 20, 64, 7])
def test_our_attention_is_that_of_pytorch(dtype: torch.dtype, lengths: tuple[int, ...], width: int) -> None:
    """Of all tokens and of one of each sequence; a sequence among others has the bits that it has alone."""
    torch.manual_seed(0)
    parts = torch.randn(sum(lengths), 3, 4, width).to(dtype)
    states, pairs = parts.flatten(1), parts[:, 1:].flatten(1).contiguous()
    packing, firsts = packing_of(*lengths), packing_of(*lengths, reads=[[0]] * len(lengths))
    q, k, v = parts.float().unbind(1)
    expected = attend(q, k, v, packing).flatten(1)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    for zero in (None, 128.5):
        found = Attention(packing, 4, dtype)(states, zero=zero)
        wanted = expected if zero is None else kernels.integers(expected + zero)
        torch.testing.assert_close(found.float(), wanted.float(), atol=tolerance if zero is None else 1, rtol=tolerance)
    found = Attention(packing, 4, dtype)(states)
    query = parts[packing.offsets[:-1], 0].flatten(1)
    read = Attention(firsts, 4, dtype)(pairs, query)
    torch.testing.assert_close(read, found[packing.offsets[:-1]], atol=tolerance, rtol=tolerance)
    for index, (start, end) in enumerate(zip(packing.offsets, packing.offsets[1:], strict=False)):
        alone = packing_of(lengths[index], reads=[[0]])
        torch.testing.assert_close(
            Attention(alone, 4, dtype)(pairs[start:end], query[index : index + 1])[0], read[index], atol=0, rtol=0
        )


@pytest.mark.parametrize("precision", supported(CPU))
def test_gradients_reach_the_embeddings(precision: Any, make_predictor: MakePredictor) -> None:
    """Explanations differentiate through weights that lie as oneDNN wants them."""
    predictor = make_predictor(precision=precision)
    engine, task = predictor.engine, predictor.task
    sequences = encodings(5, 9)
    batch = engine.build_batch(task, sequences)
    words = engine.model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
    logits = engine.call(task, batch, words)["logits"]
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), words)
    assert (gradient.abs().sum(-1) > 0).all()
    plain = np.concatenate(states(engine, task, sequences))
    np.testing.assert_allclose(logits.detach().numpy(), plain, atol=1e-5 if precision == "fp32" else 0.1)
