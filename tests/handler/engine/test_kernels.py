"""Our kernels: the numbers of PyTorch's operators, which are used where there are no kernels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.config import ServingConfig
from handler.engine import kernels
from handler.engine.attention import Attention, attend
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from scripts.archives import kernel_compiler
from scripts.cli.console import ScriptError
from tests.support.encodings import LENGTHS, outputs_of, random_words, varlen_of
from tests.support.samples import MakeModel

CPU = torch.device("cpu")
FLAGS = torch.cpu.get_capabilities()
LEVELS = [level for level, needs in kernels.LEVELS.items() if all(FLAGS.get(flag) for flag in needs)]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, tuple[str, ...]]], None]]:
    """Restrict the kernels to some levels."""

    def set_levels(levels: dict[str, tuple[str, ...]]) -> None:
        monkeypatch.setattr(kernels, "LEVELS", levels)
        kernels.library.cache_clear()

    yield set_levels
    monkeypatch.undo()
    kernels.library.cache_clear()


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_computes_the_same(level: str, only: Any) -> None:
    """Attention and layer norm of each instruction set that this processor has."""
    only({level: kernels.LEVELS[level]})
    assert kernels.library() is not None
    torch.manual_seed(0)
    qkv = torch.randn(sum(LENGTHS), 3, 4, 24)
    varlen = varlen_of(*LENGTHS)
    context = Attention(varlen, 4, torch.float32)(qkv.flatten(1))
    query, key, value = qkv.unbind(1)
    torch.testing.assert_close(context, attend(query, key, value, varlen).flatten(1), atol=2e-6, rtol=2e-6)
    x, weight, bias, multiplier = torch.randn(301, 96), torch.randn(96), torch.randn(96), torch.rand(96) * 50
    output, quantized = kernels.layer_norm_quantize(x, weight, bias, 1e-12, multiplier, 128.5)
    only({})
    expected, expected_quantized = kernels.layer_norm_quantize(x, weight, bias, 1e-12, multiplier, 128.5)
    torch.testing.assert_close(output, expected, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(quantized.short(), expected_quantized.short(), atol=1, rtol=0)
    assert (quantized != expected_quantized).float().mean() < 1e-3


@pytest.mark.parametrize("width", [1, 15, 16, 33])
def test_a_layer_norm_of_any_width(width: int) -> None:
    """Rows whose last vector is not full."""
    x, weight, bias = torch.randn(7, width) * 3, torch.full((width,), 40.0), torch.full((width,), 100.0)
    output, quantized = kernels.layer_norm_quantize(x, weight, bias, 1e-5, torch.ones(width), 0.0)
    torch.testing.assert_close(output, torch.nn.functional.layer_norm(x, (width,), weight, bias, 1e-5))
    assert torch.equal(quantized, kernels.saturate_u8(output))


def test_threads_change_nothing() -> None:
    """One thread or two: the same bits."""
    qkv, varlen = torch.randn(640, 3 * 128), varlen_of(*[64] * 10)
    contexts = []
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        contexts.append(Attention(varlen, 4, torch.float32)(qkv))
    torch.set_num_threads(threads)
    assert torch.equal(*contexts)


@pytest.mark.parametrize("precision", supported(CPU))
def test_without_kernels_the_answers_are_the_same(precision: Any, make_model: MakeModel, only: Any) -> None:
    """A server whose processor or file system refuses them serves the same model, slower."""
    engine = load_predictor(make_model(), ServingConfig(precision=precision)).engine
    sequences = random_words(*LENGTHS)
    outputs = outputs_of(engine, HiddenStates(), sequences)
    only({})
    for pair in zip(outputs, outputs_of(engine, HiddenStates(), sequences), strict=True):
        np.testing.assert_allclose(*pair, atol=1e-5 if precision == "fp32" else 5e-2)


def test_kernels_that_cannot_be_loaded_are_logged(
    only: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No compiled file, or one that is no library: one line says what to do, and PyTorch computes."""
    source = tmp_path / kernels.SOURCE.name
    shutil.copy(kernels.SOURCE, source)
    monkeypatch.setattr(kernels, "SOURCE", source)
    only({"any": ()})
    assert kernels.library() is None
    assert "run scripts/setup.sh and pack again" in caplog.text
    kernels.path_of("any").write_bytes(b"no library")
    kernels.library.cache_clear()
    assert kernels.library() is None
    assert "cannot be loaded" in caplog.text


def test_a_changed_source_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of another source than the one beside them are never called; the compiler's message is shown."""
    source = tmp_path / kernels.SOURCE.name
    source.write_text(kernels.SOURCE.read_text() + "\n", encoding="utf-8")
    before = kernels.path_of("x86_64_v3").name
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.path_of("x86_64_v3").name != before
    source.write_text("int broken(void) { return }", encoding="utf-8")
    with pytest.raises(ScriptError, match=r"kernels.c does not compile for x86_64_v3: .*expected expression"):
        kernel_compiler.compile_for("x86_64_v3", tmp_path / "kernels.so")
