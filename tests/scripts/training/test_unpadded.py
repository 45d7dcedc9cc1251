"""The layers on unpadded batches: values and gradients of transformers' own layers, and dropout that a hash decides."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor, nn

from handler.engine import cpu
from handler.engine.kernels import path_of
from scripts.training import native, unpadded
from scripts.training.layer_products import LINEARS, Products, TiledProducts
from scripts.training.unpadded import FAMILIES, encoder_of
from scripts.training.unpadded_layers import mix

LENGTHS = (37, 3, 17, 1, 16)
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "qa_dropout",
)

HAS_LEVEL = any(cpu.has(*needs) for needs in native.LEVELS.values())
# Elsewhere training takes the layers of transformers, which the other tests train; kernels that are missing fail here.
pytestmark = pytest.mark.skipif(not HAS_LEVEL, reason="no kernels for this processor: transformers' layers train")


# The model of each problem, and the shape of its labels; the head of pretraining reads both kinds of states.
HEADS = {
    "TokenClassification": "tokens",
    "SequenceClassification": "texts",
    "QuestionAnswering": "spans",
    "MaskedLM": "tokens",
    "NextSentencePrediction": "texts",
    "PreTraining": "both",
}


def model_of(family: str, activation: str = "gelu", dropout: float = 0.0, head: str = "TokenClassification") -> Any:
    """Return a random model, for labels of tokens unless `head` says another: two layers of width 64."""
    names = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2, "activation": activation}
    if family != "distilbert":
        names = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        names |= {"hidden_act": activation}
    config = transformers.AutoConfig.for_model(family, vocab_size=100, max_position_embeddings=80, **names)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    torch.manual_seed(0)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config).train()
    for parameter in model.parameters():  # biases and norms start as 0 and 1, which would hide mistakes
        parameter.data += torch.randn_like(parameter) * 0.02
    return model


def batch_of(model: Any) -> dict[str, Tensor]:
    """Return a batch of five texts with padding."""
    torch.manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    tokens = torch.randint(5, 100, shape).where(mask.bool(), torch.tensor(model.config.pad_token_id))
    batch = {"input_ids": tokens, "attention_mask": mask}
    of_tokens = torch.randint(0, 2, shape).where(mask.bool(), torch.tensor(-100))
    of_texts = torch.tensor([0, 1, 1, 0, 1])
    kind = next(kind for head, kind in HEADS.items() if type(model).__name__.endswith(f"For{head}"))
    if kind == "spans":
        ends = torch.tensor(LENGTHS) - 1
        return batch | {"start_positions": ends // 2, "end_positions": ends}
    if kind == "both":
        return batch | {"labels": of_tokens, "next_sentence_label": of_texts}
    return batch | {"labels": of_tokens if kind == "tokens" else of_texts}


def pass_through(model: Any, bf16: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return loss, logits (of tokens without padding) in one row, and the gradients."""
    model.zero_grad()
    batch = batch_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output = model(**batch)
    output.loss.backward()
    gradients = {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.grad is not None}
    mask = batch["attention_mask"].bool()
    logits = [logits.detach().float() for logits in output.to_tuple()[1:]]
    rows = [part[mask] if part.shape[:2] == mask.shape else part for part in logits]
    return output.loss.detach(), torch.cat([part.flatten() for part in rows]), gradients


def encoder(model: Any, dtype: torch.dtype = torch.float32) -> unpadded.UnpaddedEncoder:
    encoder = encoder_of(model, dtype)
    assert encoder is not None
    return encoder


@pytest.mark.parametrize(
    ("family", "head", "activation"),
    [
        *((family, "TokenClassification", "gelu") for family in FAMILIES),
        *((family, "SequenceClassification", "gelu") for family in FAMILIES),
        *(("bert", head, "gelu") for head in ("MaskedLM", "NextSentencePrediction", "PreTraining")),
        *(("bert", "TokenClassification", activation) for activation in ("gelu_new", "relu")),
    ],
)
def test_values_and_gradients_are_those_of_transformers(family: str, head: str, activation: str) -> None:
    """Of every head that training knows; where it reads the first token alone, no other is computed."""
    model = model_of(family, activation, head=head)
    loss, logits, gradients = pass_through(model)
    with encoder(model).in_place():
        packed_loss, packed_logits, packed_gradients = pass_through(model)
    torch.testing.assert_close(packed_loss, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed_logits, logits, rtol=1e-4, atol=1e-6)
    assert packed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=2e-6, msg=name)
    own_loss, *_ = pass_through(model)
    assert torch.equal(own_loss, loss)  # the model computes its layers itself again


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_answers_are_trained_as_if_each_text_were_alone(family: str) -> None:
    """In transformers' own batches padding is a possible answer, so that a text's loss depends on its neighbours."""
    model = model_of(family, head="QuestionAnswering")
    batch, losses = batch_of(model), []
    for row, length in enumerate(LENGTHS):
        spans = {name: batch[name][row : row + 1] for name in ("start_positions", "end_positions")}
        losses.append(model(batch["input_ids"][row : row + 1, :length], **spans).loss)
    model.zero_grad()
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
    alone = {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.grad is not None}
    with encoder(model).in_place():
        loss, _, gradients = pass_through(model)
    torch.testing.assert_close(loss, torch.stack(losses).mean().detach(), rtol=1e-5, atol=1e-6)
    for name, gradient in alone.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("head", ["TokenClassification", "SequenceClassification"])
def test_bf16_is_as_near_to_fp32_as_autocast(head: str) -> None:
    model = model_of("bert", head=head)
    _, exact_logits, exact = pass_through(model)
    _, logits, gradients = pass_through(model, bf16=True)
    with encoder(model, torch.bfloat16).in_place():
        _, packed_logits, packed_gradients = pass_through(model, bf16=True)

    def distance(some: dict[str, Tensor]) -> float:
        return float(torch.stack([(some[name] - exact[name]).norm() for name in exact]).norm())

    assert (packed_logits - exact_logits).norm() < 1.5 * (logits - exact_logits).norm()
    assert distance(packed_gradients) < 1.5 * distance(gradients)


@pytest.mark.parametrize("head", ["TokenClassification", "SequenceClassification"])
def test_gradients_fit_the_dropout_of_the_forward_pass(head: str) -> None:
    """The loss changes along the gradient as the gradient says, with the same numbers dropped."""
    model, step = model_of("bert", dropout=0.3, head=head), 1e-2
    own = dict(model.bert.encoder.named_parameters())
    with encoder(model).in_place():  # batch_of seeds as well, so that the same is dropped in every pass
        _, _, gradients = pass_through(model)
        along = {name: gradients[f"bert.encoder.{name}"] for name in own}
        norm = sum(float(gradient.square().sum()) for gradient in along.values()) ** 0.5
        start = {name: weights.detach().clone() for name, weights in own.items()}
        losses = []
        for sign in (1, -1):
            for name, weights in own.items():
                with torch.no_grad():
                    weights.copy_(start[name] + sign * step / norm * along[name])
            losses.append(float(pass_through(model)[0]))
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(norm, rel=0.02)


def test_dropout_drops_as_often_as_it_should_and_elsewhere_each_time() -> None:
    """Each dropout and each pass has numbers of its own; what is kept is scaled, so that the mean stays."""
    ones, zeros = torch.ones(64, 512), torch.zeros(512)
    kept = []
    for seed, index in ((3, 0), (3, 1), (4, 0)):
        norm = native.ResidualNorm(zeros, zeros + 1, zeros, 1e-12, native.Dropout(0.1, mix(seed, index)))
        norm.forward(ones, torch.zeros(64, 512))
        summed = norm._summed
        assert sorted(set(summed.flatten().tolist())) == pytest.approx([0, 1 / 0.9])
        kept.append(summed > 0)
        assert kept[-1].float().mean() == pytest.approx(0.9, abs=0.01)
        assert kept[-1].float().mean(0).std() == pytest.approx((0.9 * 0.1 / 64) ** 0.5, rel=0.2)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (kept[first] == kept[second]).float().mean() == pytest.approx(0.82, abs=0.02)


def test_the_number_of_threads_changes_no_bit() -> None:
    """Sums over rows are added in one order: gradients of biases and norms have the same bits."""
    torch.manual_seed(2)
    x, residual, gradient = torch.randn(3, 300, 128).unbind()
    linear_bias, weight, bias = torch.randn(3, 128).unbind()
    results, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            norm = native.ResidualNorm(linear_bias, weight, bias, 1e-12, native.Dropout(0.1, 5))
            output, _ = norm.forward(x, residual)
            to_residual, to_x, sums = norm.backward(gradient, None)
            results.append([output, to_residual, to_x, *sums])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


# Elsewhere PyTorch itself computes the products, so that there is nothing to compare.
@pytest.mark.skipif(not (library := native.library()) or not library.has_tiles, reason="PyTorch computes without AMX")
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(32, 32, 64), (288, 96, 32), (544, 160, 128)])
def test_products_by_tiles_are_those_of_pytorch(rows: int, n_in: int, n_out: int) -> None:
    """Forwards, backwards and for the weights, of which the first product has three."""
    torch.manual_seed(3)
    layer = Namespace(**{name: nn.Linear(n_in, n_out) for name in LINEARS})
    plain, tiled = (kind(cast("Any", layer), torch.bfloat16) for kind in (Products, TiledProducts))
    x, gradient = (torch.randn(rows, width).bfloat16() for width in (n_in, 3 * n_out))
    for products in (plain, tiled):
        products.update(is_stale=True)
    close = partial(torch.testing.assert_close, rtol=1e-2, atol=1e-2 * n_in**0.5)
    close(tiled.output(0, x), plain.output(0, x))
    close(tiled.output(2, x), plain.output(2, x))
    close(tiled.to_input(0, gradient), plain.to_input(0, gradient))
    torch.testing.assert_close(
        tiled.to_weight(gradient, x), gradient.float().t() @ x.float(), rtol=1e-3, atol=1e-4 * rows
    )


def test_weights_are_rounded_anew_after_a_step_and_after_loading() -> None:
    """PyTorch's fused AdamW changes weights without counting up their version."""
    model = model_of("bert")
    state = {name: weights.clone() for name, weights in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    with encoder(model).in_place():
        before, *_ = pass_through(model)
        optimizer.step()
        after, *_ = pass_through(model)
        model.load_state_dict(state)
        loaded, *_ = pass_through(model)
    optimizer.step()
    model.load_state_dict(state)
    assert torch.equal(loaded, before)
    assert not torch.equal(after, before)


def test_other_layers_stay_those_of_the_model() -> None:
    """Adapters, frozen encoders, other families and widths that are no multiple of sixteen."""
    model = model_of("bert")
    model.bert.encoder.layer[0].output.dense = nn.Sequential(model.bert.encoder.layer[0].output.dense)
    assert encoder_of(model, torch.float32) is None
    model = model_of("bert")
    model.bert.requires_grad_(False)
    assert encoder_of(model, torch.float32) is None
    config = transformers.AutoConfig.for_model(
        "bert", vocab_size=100, hidden_size=24, intermediate_size=64, num_attention_heads=2, num_hidden_layers=1
    )
    assert encoder_of(transformers.AutoModelForTokenClassification.from_config(config), torch.float32) is None  # type: ignore[no-untyped-call]
    albert = transformers.AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=32, intermediate_size=64, num_attention_heads=2
    )
    assert encoder_of(transformers.AutoModelForTokenClassification.from_config(albert), torch.float32) is None  # type: ignore[no-untyped-call]


def test_missing_kernels_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A training says why it is slow and what to do."""
    assert native.why_missing() is None
    monkeypatch.setattr(native, "SOURCE", tmp_path / "training.c")
    (tmp_path / "training.c").touch()
    native.library.cache_clear()
    try:
        assert "run scripts/compile_kernels.py" in str(native.why_missing())
        level = next(level for level, needs in native.LEVELS.items() if cpu.has(*needs))
        path_of(level, native.SOURCE).write_bytes(b"no library")
        assert "cannot be loaded" in str(native.why_missing())
    finally:
        native.library.cache_clear()
