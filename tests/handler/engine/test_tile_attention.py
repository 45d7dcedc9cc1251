"""The kernel that attends over tiles, run on a CPU by tests/support/fake_triton.py; test_cuda.py runs it on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from handler.engine import attention, cuda, encoder
from handler.engine.attention import attend
from handler.engine.batch import VarlenMetadata
from handler.engine.cuda_graphs import BUCKETS
from handler.engine.fp8_scales import E4M3, E4M3_MAX
from handler.loading import load_predictor
from tests.support.encodings import LENGTHS, logits_of, random_words
from tests.support.fake_gpu import fake_varlen_attn, load_fake_gpu
from tests.support.fake_triton import imported

CPU = torch.device("cpu")
MODULE = "handler.engine.tile_attention"


@pytest.fixture(scope="module")
def tiles() -> Iterator[Any]:
    """Return the module of the kernel."""
    with imported(MODULE) as module:
        yield module


def boundaries(lengths: tuple[int, ...]) -> VarlenMetadata:
    """Return the boundaries of sequences."""
    return VarlenMetadata(lengths, torch.tensor((0, *lengths)).cumsum(0).int(), max(lengths))


@pytest.mark.parametrize("lengths", [LENGTHS, (1,) * 70, (130, 61, 65, 64, 1, 2), (300,), (64, 128), (0, 20, 0, 0, 50)])
@pytest.mark.parametrize("head", [16, 64])
def test_it_equals_attention_sequence_by_sequence(tiles: Any, lengths: tuple[int, ...], head: int) -> None:
    """Tiles of one sequence and of several, full and not; empty sequences, as a graph has, change nothing."""
    torch.manual_seed(0)
    n_heads, varlen = 2, boundaries(lengths)
    qkv = torch.randn(sum(lengths), 3 * n_heads * head)
    context = tiles.attend_tiles(qkv, *varlen.token_bounds(), n_heads)
    q, k, v = (part.reshape(len(qkv), n_heads, head) for part in qkv.chunk(3, -1))
    expected = attend(q, k, v, boundaries(tuple(length for length in lengths if length))).flatten(1)
    torch.testing.assert_close(context, expected, atol=1e-5, rtol=1e-5)


def test_it_writes_eight_bits(tiles: Any) -> None:
    """Multiplied before it is rounded, and never infinite."""
    torch.manual_seed(0)
    varlen = boundaries((3, 70, 20))
    qkv = torch.randn(93, 3 * 32).bfloat16()
    plain = tiles.attend_tiles(qkv, *varlen.token_bounds(), 2)
    assert plain.dtype == torch.bfloat16
    rounded = tiles.attend_tiles(qkv, *varlen.token_bounds(), 2, 100.0)
    assert rounded.dtype == E4M3
    assert ((rounded.float() / 100 - plain.float()).abs() <= plain.float().abs() / 12 + 1e-4).all()
    clipped = tiles.attend_tiles(qkv, *varlen.token_bounds(), 2, 1e6).float().abs()
    assert clipped.max() == E4M3_MAX


@pytest.mark.parametrize("fault", ["a width", "an answer", None])
def test_it_is_compared_before_it_is_used(tiles: Any, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A width of heads that it has not, and a kernel that computes something else, are refused."""
    if fault is None:
        tiles.check(2, 64, torch.bfloat16, CPU)
    elif fault == "a width":
        with pytest.raises(ArithmeticError, match=r"a head of width 20 is none of \(16, 32, 64, 128\)"):
            tiles.check(2, 40, torch.bfloat16, CPU)
    else:
        correct = tiles.attend_tiles
        monkeypatch.setattr(tiles, "attend_tiles", lambda *arguments: correct(*arguments).float() * 1.1)
        with pytest.raises(ArithmeticError, match="computes something else"):
            tiles.check(2, 64, torch.bfloat16, CPU)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_the_engine_for_gpus_attends_by_it(
    precision: str,
    tiles: Any,
    make_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In every layer but the last one, by graphs and without; where it is refused, PyTorch's computes the same."""
    monkeypatch.setattr("handler.engine.fp8.supported", lambda _: True)
    monkeypatch.setattr("handler.engine.precision.supported", lambda _: ["bf16", "fp32"])
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda _, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_attn", fake_varlen_attn)
    monkeypatch.setattr(cuda, "recorder", lambda: lambda run: run)
    monkeypatch.setattr(cuda, "BUCKETS", BUCKETS[:8])
    monkeypatch.setattr(encoder, "padded_row_count", lambda n: n)  # as on a GPU
    folder = make_model(hidden_size=64, num_hidden_layers=3)
    exact, outputs = load_predictor(folder), []
    calls: list[torch.dtype] = []
    attend_tiles = tiles.attend_tiles

    def counted(*arguments: Any) -> Any:
        context = attend_tiles(*arguments)
        calls.append(context.dtype)
        return context

    for is_refused in (False, True):
        monkeypatch.setattr(tiles, "attend_tiles", counted)
        monkeypatch.setattr(tiles, "HEAD_WIDTHS", () if is_refused else (16, 32))
        engine = load_fake_gpu(folder, exact, precision=precision)
        assert (engine.model.base_model.encoder.tile_kernel is None) == is_refused
        del calls[:]
        outputs.append(logits_of(engine.run(random_words(*LENGTHS))))
        kinds = [E4M3 if precision == "fp8" else torch.bfloat16] * 2
        assert calls == ([] if is_refused else kinds)
        engine.record_graphs(128)
        outputs.append(logits_of(engine.run(random_words(*LENGTHS))))
    assert [line for line in caplog.messages if "gives every sequence tiles of its own, which is slower" in line]
    expected = logits_of(exact.engine.run(random_words(*LENGTHS)))
    for logits in outputs:
        tolerance = 0.15 if precision == "fp8" else 0.03
        assert np.linalg.norm(logits - expected) <= tolerance * np.linalg.norm(expected)
