"""Our own encoder: the numbers of transformers, whichever tokens are read and whatever the batch composition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from handler.engine import kernel_operators
from handler.engine.attention import Attention, attend
from handler.engine.encoder import PackedEncoder, padded_row_count
from handler.engine.families import encoder_of
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from tests.support.encodings import LENGTHS, ChosenStates, outputs_of, random_words, varlen_of
from tests.support.families import FAMILIES, LATER_FAMILIES, OWN_ENCODER_FAMILIES, PADDED_FAMILIES, make_family
from tests.support.samples import MakeModel, MakePredictor, SetKernelLevels

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", OWN_ENCODER_FAMILIES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_any_tokens_of_any_family(name: str, activation: str, make_model: MakeModel) -> None:
    """All tokens, the first of each sequence, or several: the states are those of transformers, padded."""
    key = "activation" if name == "DistilBert" else "hidden_act"
    settings = {**FAMILIES[name], key: activation, "max_position_embeddings": 100}
    folder = make_family(name, settings, make_model)
    ours, theirs = load_predictor(folder).engine.with_gradients(), load_predictor(folder, packed=False).engine
    assert isinstance(encoder_of(ours.model.base_model), PackedEncoder)
    sequences = random_words(*LENGTHS)
    for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5), ChosenStates(2)):
        outputs, expected = (outputs_of(engine, pooler, sequences) for engine in (ours, theirs))
        for pair in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(*pair, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize("name", LATER_FAMILIES)
def test_any_tokens_of_later_families(name: str, make_model: MakeModel) -> None:
    """As above, and the embeddings have gradients: explanations need them."""
    folder = make_family(name, {**LATER_FAMILIES[name], "max_position_embeddings": 100}, make_model)
    ours, theirs = load_predictor(folder).engine.with_gradients(), load_predictor(folder, packed=False).engine
    assert isinstance(encoder_of(ours.model.base_model), PackedEncoder)
    sequences = random_words(*LENGTHS)
    for pooler in (ours.main, HiddenStates(), ChosenStates(0), ChosenStates(0, 5), ChosenStates(2)):
        outputs, expected = (outputs_of(engine, pooler, sequences) for engine in (ours, theirs))
        for pair in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(*pair, atol=2e-5)
    batch = ours.build_batch(ours.main, sequences)
    words = ours.model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
    logits = ours.call(ours.main, batch, words)["logits"]
    np.testing.assert_allclose(
        logits.detach(), np.stack([*map(np.ravel, outputs_of(ours, ours.main, sequences))]), atol=1e-5
    )
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), words)
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("name", ["Bert", "Roberta", "Albert", "SqueezeBert", "ModernBert", "MPNet"])
def test_tokens_that_are_not_attended_to(
    name: str, has_kernels: bool, make_model: MakeModel, kernel_levels: SetKernelLevels
) -> None:
    """They attend to the others, which are as without them: the states are those of transformers with a mask."""
    if not has_kernels:
        kernel_levels({})
    families = FAMILIES | LATER_FAMILIES | PADDED_FAMILIES
    folder = make_family(name, {**families[name], "max_position_embeddings": 100}, make_model)
    sequences = random_words(6, 40, 6, 5, 5, 6, 20)
    for index, n_unattended in ((0, 3), (2, 1), (3, 3), (5, 3)):  # within one window of ModernBERT
        sequences[index] = replace(sequences[index], n_unattended=n_unattended)
    same_words = replace(sequences[0], n_unattended=2)
    engine = load_predictor(folder).engine
    outputs = outputs_of(engine, HiddenStates(), [*sequences, same_words])
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for sequence, output in zip([*sequences, same_words], outputs, strict=True):
        mask = torch.ones(1, len(sequence), dtype=torch.long)
        mask[0, len(sequence) - sequence.n_unattended :] = 0
        with torch.inference_mode():
            expected = model(torch.tensor([sequence.ids]), attention_mask=mask)[0][0]
        np.testing.assert_allclose(output, expected, atol=2e-5)
    (attended,) = outputs_of(engine, HiddenStates(), [replace(sequences[0], n_unattended=0)])
    assert np.abs(attended - outputs[0]).max() > 1e-3


def test_padding_rows_are_not_read(make_model: MakeModel, kernel_levels: SetKernelLevels) -> None:
    """Without kernels few numbers of rows reach oneDNN, whatever the lengths, and padding rows change nothing."""
    kernel_levels({})
    engine = load_predictor(make_model()).engine
    encoder = engine.model.base_model.encoder
    row_counts, enter = [], encoder.enter

    def count(states: torch.Tensor) -> Any:
        row_counts.append(len(states))
        return enter(states)

    encoder.enter = count
    for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
        encoder.pad_rows = True
        padded = outputs_of(engine, pooler, random_words(*LENGTHS))
        encoder.pad_rows = False
        for pair in zip(padded, outputs_of(engine, pooler, random_words(*LENGTHS)), strict=True):
            np.testing.assert_allclose(*pair, atol=1e-6)
    assert set(row_counts[::2]) == {padded_row_count(sum(LENGTHS))}
    assert set(row_counts[1::2]) == {sum(LENGTHS)}
    assert len({padded_row_count(n) for n in range(1, 1025)}) == 48


def test_an_unknown_activation_keeps_the_modules_of_transformers(make_model: MakeModel) -> None:
    """Such a model runs packed all the same."""
    engine = load_predictor(make_model(hidden_act="quick_gelu")).engine
    assert engine.packed
    assert not isinstance(engine.model.base_model.encoder, PackedEncoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [LENGTHS, (100, 90, 90, 200), (1,), (1, 1), (8, 8)])
@pytest.mark.parametrize("width", [16, 20, 64, 7])
def test_our_attention_is_that_of_pytorch(dtype: torch.dtype, lengths: tuple[int, ...], width: int) -> None:
    """Of all tokens and of one of each sequence; a sequence among others has the bits that it has alone."""
    torch.manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 4, width).to(dtype)
    kv = qkv[:, 1:].flatten(1).contiguous()
    varlen, first_tokens = varlen_of(*lengths), varlen_of(*lengths, reads=[[0]] * len(lengths))
    q, k, v = qkv.float().unbind(1)
    expected = attend(q, k, v, varlen).flatten(1)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    context = Attention(varlen, 4, dtype)(qkv.flatten(1))
    torch.testing.assert_close(context.float(), expected, atol=tolerance, rtol=tolerance)
    quantized = Attention(varlen, 4, dtype)(qkv.flatten(1), zero_point=128.5)
    saturated = kernel_operators.saturate_u8(expected + 128.5)
    torch.testing.assert_close(quantized.float(), saturated.float(), atol=1, rtol=tolerance)
    query = qkv[varlen.cu_seqlens[:-1], 0].flatten(1)
    read = Attention(first_tokens, 4, dtype)(kv, query)
    torch.testing.assert_close(read, context[varlen.cu_seqlens[:-1]], atol=tolerance, rtol=tolerance)
    for index, (start, end) in enumerate(zip(varlen.cu_seqlens, varlen.cu_seqlens[1:], strict=False)):
        alone = varlen_of(lengths[index], reads=[[0]])
        torch.testing.assert_close(
            Attention(alone, 4, dtype)(kv[start:end], query[index : index + 1])[0], read[index], atol=0, rtol=0
        )


@pytest.mark.parametrize("precision", supported(CPU))
def test_gradients_reach_the_embeddings(precision: Any, make_predictor: MakePredictor) -> None:
    """Explanations differentiate through weights in oneDNN's order."""
    predictor = make_predictor(precision=precision)
    engine, task = predictor.engine.with_gradients(), predictor.task
    sequences = random_words(5, 9)
    batch = engine.build_batch(task, sequences)
    words = engine.model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
    logits = engine.call(task, batch, words)["logits"]
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), words)
    assert (gradient.abs().sum(-1) > 0).all()
    plain = np.concatenate(outputs_of(engine, task, sequences))
    np.testing.assert_allclose(logits.detach().numpy(), plain, atol=1e-5 if precision == "fp32" else 0.1)
