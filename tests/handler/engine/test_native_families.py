"""Layers of later families in one call: rotary positions, windows, biases, gates, norms before the halves, RMSNorm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from handler.engine import native_encoder
from handler.engine.encoder import PackedEncoder, packed_encoder_of
from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_weights import LayerWeights
from handler.engine.relative import DistanceBias, Rotary
from tests.support.encodings import varlen_of
from tests.support.layers import (
    CPU,
    DTYPES,
    HEADS,
    KINDS,
    LENGTHS,
    LEVELS,
    WIDTH,
    Config,
    check_small_passes,
    encode,
    linear,
    norm,
    quantized,
    reads_of,
    states_of,
    with_all_threads,
)
from tests.support.samples import SetKernelLevels

INNER, WINDOW = 200, 40
PRECISIONS = [name for name in DTYPES if native_encoder.supports(KINDS[name], "silu", WIDTH, HEADS)]
FAMILIES: dict[str, dict[str, Any]] = {
    "ModernBERT": {"pre_norm": True, "has_gate": True, "windows": (None, WINDOW, WINDOW), "has_first_norm": False},
    "EuroBERT": {"pre_norm": True, "has_gate": True, "rms": True, "activation": "silu"},
    "GTE": {"has_gate": True},
    "NomicBERT": {"has_gate": True, "activation": "silu"},
    "Jina": {"activation": "gelu"},
    "Megatron-BERT": {"pre_norm": True, "has_rotary": False},
    "MPNet": {"has_rotary": False, "has_bias": True},
}


def cases(*which: str) -> list[tuple[str, str]]:
    """Return every precision with each choice of tokens; int8 with the last one, for its operators are slow."""
    return [(precision, each) for precision in PRECISIONS for each in which if precision != "int8" or each == which[-1]]


def rms_norm() -> nn.RMSNorm:
    """Return a norm with weights."""
    module = nn.RMSNorm(WIDTH, eps=1e-5)
    nn.init.normal_(module.weight, 1.0, 0.1)
    return module


def rotary() -> Rotary:
    """Return angles of as many positions as the longest sequence has."""
    half = WIDTH // HEADS // 2
    angles = torch.arange(max(LENGTHS))[:, None] * 100 ** (-torch.arange(half) / half)
    return Rotary(angles.cos(), angles.sin())


def make_encoder(family: str, precision: str) -> PackedEncoder:
    """Make an encoder of random weights, the same ones every time, as this machine computes it."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"windows": (None, None, None), "has_rotary": True, "has_first_norm": True} | FAMILIES[
        family
    ]
    pre_norm, make_norm = options.get("pre_norm", False), rms_norm if options.get("rms") else norm
    angles = rotary() if options["has_rotary"] else None
    bias = DistanceBias(torch.randn(HEADS, 2 * max(LENGTHS) - 1)) if options.get("has_bias") else None
    squares = ("query", "key", "value", "attention_output")
    layers = [
        LayerWeights(
            **{name: linear(WIDTH, WIDTH) for name in squares},
            attention_norm=make_norm() if index or options["has_first_norm"] else None,
            intermediate=linear(WIDTH, INNER),
            gate=linear(WIDTH, INNER) if options.get("has_gate") else None,
            output=linear(INNER, WIDTH),
            output_norm=make_norm(),
            pre_norm=pre_norm,
            attention=LayerAttention(angles, window, bias),
        )
        for index, window in enumerate(options["windows"])
    ]
    activation = options.get("activation", "gelu")
    if precision == "int8":
        return quantized(layers, activation, torch.bfloat16 if "bf16" in PRECISIONS else torch.float32)
    encoder = packed_encoder_of(layers, Config(activation))  # type: ignore[arg-type]
    encoder.prepack(DTYPES[precision], CPU)
    return encoder


def largest_and_mean(difference: Tensor) -> tuple[float, float]:
    """Return the largest and the mean absolute value."""
    return float(difference.abs().max()), float(difference.abs().mean())


@pytest.mark.parametrize(("precision", "which"), cases("all", "first", "several"))
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_operators_compute(
    family: str, precision: str, which: str, kernel_levels: SetKernelLevels
) -> None:
    """Any tokens of sequences shorter and longer than a window, in every level of instructions."""
    varlen = varlen_of(*LENGTHS, reads=reads_of(which))
    states = states_of(varlen)
    kernel_levels({})
    operators = make_encoder(family, precision)
    assert operators.native is None
    expected = encode(operators, varlen, states)
    for level in [level for level in LEVELS if native_encoder.NEEDS[KINDS[precision]] in level]:
        kernel_levels({level: LEVELS[level]})
        native = make_encoder(family, precision)
        assert native.native is not None
        output = encode(native, varlen, states)
        assert output.shape == expected.shape
        largest, mean = largest_and_mean(output - expected)
        assert largest < {"fp32": 5e-5, "bf16": 0.3, "int8": 0.4}[precision]
        assert mean < {"fp32": 5e-6, "bf16": 0.03, "int8": 0.05}[precision]


@pytest.mark.parametrize(("precision", "which"), cases("all", "several"))
@pytest.mark.parametrize("family", ["ModernBERT", "EuroBERT", "NomicBERT", "MPNet"])
def test_a_sequence_has_the_same_bits_in_any_batch(family: str, precision: str, which: str) -> None:
    """Alone or among others, with chunks of sequences for each thread, or with their rows divided."""
    encoder, reads = with_all_threads(make_encoder(family, precision)), reads_of(which)
    varlen = varlen_of(*LENGTHS, reads=reads)
    states, threads = states_of(varlen), torch.get_num_threads()
    alone = []
    try:
        for index, rows in enumerate(torch.split(states[0], list(LENGTHS))):
            one = varlen_of(LENGTHS[index], reads=None if reads is None else [reads[index]])
            results = []
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                results.append(encode(encoder, one, rows[None]).flatten(0, 1))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
            alone.append(results[0])
        for n in (1, 2):
            torch.set_num_threads(n)
            assert torch.equal(encode(encoder, varlen, states).flatten(0, 1), torch.cat(alone))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_threads_compute_a_small_pass_together(family: str, precision: str) -> None:
    """Whoever computes which part."""
    check_small_passes(make_encoder(family, precision), repeats=3)


def test_a_position_that_has_no_angle_or_bias_is_refused() -> None:
    """As PyTorch's operators refuse it."""
    varlen = varlen_of(max(LENGTHS) + 1)
    with pytest.raises(ValueError, match=f"position ids of the batch, all below {max(LENGTHS)}"):
        encode(make_encoder("NomicBERT", "fp32"), varlen, states_of(varlen))
    with pytest.raises(ValueError, match=f"{max(LENGTHS) + 1} tokens: the bias of distances is for {max(LENGTHS)}"):
        encode(make_encoder("MPNet", "fp32"), varlen, states_of(varlen))


def test_gradients_come_through_operators() -> None:
    """Explanations compute what is served."""
    encoder, varlen = make_encoder("ModernBERT", "fp32"), varlen_of(*LENGTHS, reads=reads_of("several"))
    states = states_of(varlen)
    differentiable = states.clone().requires_grad_()
    output = encoder.encode(differentiable, varlen)
    (gradient,) = torch.autograd.grad(output.sum(), differentiable)
    assert float((output.detach() - encode(encoder, varlen, states)).abs().max()) < 1e-3
    assert bool(gradient.isfinite().all())
