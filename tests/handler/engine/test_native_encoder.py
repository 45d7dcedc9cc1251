"""All layers in one call: the numbers of the operators that it replaces, and the same bits in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from handler.engine import kernels, native_encoder
from handler.engine.encoder import PackedEncoder, packed_encoder_of
from handler.engine.layer_weights import LayerWeights
from handler.engine.packing import PAIRS, pack, unpack
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

INNER = 203  # an inner width of split channels, which no vector divides
PRECISIONS = [name for name, kind in KINDS.items() if native_encoder.supports(kind, "gelu", WIDTH, HEADS)]


def random_layers(inner: int = INNER) -> list[LayerWeights]:
    """Return random weights, the same ones every time."""
    torch.manual_seed(0)
    names = ("query", "key", "value", "attention_output")
    squares: list[dict[str, Any]] = [{name: linear(WIDTH, WIDTH) for name in names} for _ in "123"]
    return [
        LayerWeights(
            **square,
            attention_norm=norm(),
            intermediate=linear(WIDTH, inner),
            output=linear(inner, WIDTH),
            output_norm=norm(),
        )
        for square in squares
    ]


def make_encoder(precision: str, activation: str = "gelu") -> PackedEncoder:
    """Make an encoder as this machine computes it."""
    if precision == "int8":
        dtype = torch.bfloat16 if "bf16" in PRECISIONS else torch.float32
        return quantized(random_layers(), activation, dtype)
    inner = INNER + 1 if precision == "bf16" else INNER
    encoder = packed_encoder_of(random_layers(inner), Config(activation))  # type: ignore[arg-type]
    encoder.prepack(DTYPES[precision], CPU)
    return encoder


@pytest.mark.parametrize("which", ["all", "first", "several"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_computes_what_the_operators_compute(
    precision: str, activation: str, which: str, kernel_levels: SetKernelLevels
) -> None:
    """Any tokens, any activation; integers may round to the other side, and then differ by a step."""
    native = make_encoder(precision, activation)
    assert native.native is not None
    kernel_levels({})
    operators = make_encoder(precision, activation)
    assert operators.native is None
    varlen = varlen_of(*LENGTHS, reads=reads_of(which))
    states = states_of(varlen)
    ours, theirs = (encode(encoder, varlen, states) for encoder in (native, operators))
    assert ours.shape == theirs.shape
    largest, mean = {"fp32": (2e-5, 2e-6), "bf16": (0.15, 0.015), "int8": (0.3, 0.02)}[precision]
    assert (ours - theirs).abs().max() < largest
    assert (ours - theirs).abs().mean() < mean


@pytest.mark.parametrize("level", LEVELS)
def test_sums_of_the_largest_integers_are_exact(level: str, kernel_levels: SetKernelLevels) -> None:
    """Two products of 255 and 127 need more than 16 bits, in which some instructions add products of 8 bits."""
    layers = random_layers()
    for layer in layers:
        for name in ("query", "key", "value", "attention_output", "intermediate", "output"):
            weight = getattr(layer, name).weight.data
            weight.copy_(weight.sign() * weight.abs().mean())  # -127 and 127
    kernel_levels({level: LEVELS[level]})
    native = quantized(layers, "gelu", torch.float32)
    assert native.native is not None
    kernel_levels({})
    operators = quantized(layers, "gelu", torch.float32)
    varlen = varlen_of(*LENGTHS)
    states = states_of(varlen) * 10  # most of them 0 and 255
    assert (encode(native, varlen, states) - encode(operators, varlen, states)).abs().mean() < 0.02


@pytest.mark.parametrize("which", ["all", "first", "several"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sequence_has_the_same_bits_in_any_batch(precision: str, which: str) -> None:
    """Alone or among others, with one thread, with chunks of sequences for two, or with their rows divided."""
    encoder, reads = with_all_threads(make_encoder(precision)), reads_of(which)
    varlen = varlen_of(*LENGTHS, reads=reads)
    states, threads = states_of(varlen), torch.get_num_threads()
    alone = []
    try:
        for index, rows in enumerate(torch.split(states[0], list(LENGTHS))):
            one = varlen_of(LENGTHS[index], reads=None if reads is None else [reads[index]])
            results = []
            for n in (1, 2, 3):  # a single sequence is divided among them
                torch.set_num_threads(n)
                results.append(encode(encoder, one, rows[None]))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
            alone.append(results[0].flatten(0, 1))
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(encode(encoder, varlen, states).flatten(0, 1), torch.cat(alone))
            twice = varlen_of(*LENGTHS, *LENGTHS, reads=None if reads is None else [*reads, *reads])
            doubled = encode(encoder, twice, states.repeat(1, 2, 1)).flatten(0, 1)
            assert torch.equal(doubled, torch.cat([*alone, *alone]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_compute_a_small_pass_together(precision: str) -> None:
    """Whoever computes which part."""
    check_small_passes(make_encoder(precision), repeats=10)


def test_without_openmp_one_thread_computes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An image that has no libgomp is slower, and says so once."""
    varlen = varlen_of(*LENGTHS)
    states = states_of(varlen)
    expected = encode(with_all_threads(make_encoder("fp32")), varlen, states)
    monkeypatch.setattr(kernels, "_openmp_paths", lambda: iter(["/nowhere/libgomp.so.1"]))
    for function in (kernels.openmp, kernels.library):
        function.cache_clear()
    try:
        assert torch.equal(encode(with_all_threads(make_encoder("fp32")), varlen, states), expected)
        assert [message for message in caplog.messages if "install libgomp" in message] == caplog.messages
        assert len(caplog.messages) == 1
    finally:
        monkeypatch.undo()
        for function in (kernels.openmp, kernels.library):
            function.cache_clear()


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_computes_the_same(level: str, kernel_levels: SetKernelLevels) -> None:
    """Each set of instructions of this processor, in the precisions that it has."""
    varlen = varlen_of(*LENGTHS)
    states = states_of(varlen)
    precisions = {"fp32": 2e-5} | {name: 0.3 for name in PRECISIONS if native_encoder.NEEDS[KINDS[name]] in level}
    expected = {name: encode(make_encoder(name), varlen, states) for name in precisions}
    kernel_levels({level: LEVELS[level]})
    for name, tolerance in precisions.items():
        encoder = make_encoder(name)
        assert encoder.native is not None
        torch.testing.assert_close(encode(encoder, varlen, states), expected[name], atol=tolerance, rtol=1e-5)


def test_who_computes_depends_on_the_processor(kernel_levels: SetKernelLevels) -> None:
    """Widths, activations and levels that do not fit are left to oneDNN."""
    assert native_encoder.supports("fp32", "gelu", WIDTH, HEADS)
    assert not native_encoder.supports("fp32", "tanh", WIDTH, HEADS)
    assert not native_encoder.supports("fp32", "gelu", WIDTH, 5)
    assert not native_encoder.supports("uint8", "gelu", 18, 9)
    kernel_levels({"x86_64_v3": kernels.LEVELS["x86_64_v3"]})
    assert native_encoder.supports("uint8", "gelu", WIDTH, HEADS)
    assert not native_encoder.supports("bf16", "gelu", WIDTH, HEADS)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int8])
@pytest.mark.parametrize("shape", [(64, 8), (65, 7), (3, 130)])
def test_packed_weights_can_be_unpacked(dtype: type[np.generic], shape: tuple[int, int]) -> None:
    """Explanations and the quantizer read them."""
    weight = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    if dtype is np.int8:
        in_pairs = pack(weight, 16, in_pairs=True)
        assert np.array_equal(unpack(in_pairs[..., np.argsort(PAIRS)], *shape), weight)
    for panel_width in (16, 64):
        packed = pack(weight, panel_width)
        assert packed.shape[0] * packed.shape[2] >= shape[0]
        assert np.array_equal(unpack(packed, *shape), weight)
