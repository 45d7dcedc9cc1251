"""Our kernels: the numbers of PyTorch's operators, which are used where there are no kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from handler.engine import cpu, kernel_operators, kernels
from handler.engine.attention import Attention, attend
from handler.engine.relative import rotate
from scripts.archives import kernel_compiler
from scripts.cli.console import ScriptError
from tests.support.encodings import LENGTHS, varlen_of
from tests.support.samples import ROOT, SetKernelLevels

LEVELS = [level for level, needs in kernels.LEVELS.items() if cpu.has(*needs)]


OPENMP = """
import sys
from handler.engine import kernels
def loaded(name):
    return {line.split()[-1] for line in open("/proc/self/maps") if name in line}
assert kernels.openmp() is not None
before = loaded("libgomp")
print("torch" in sys.modules or loaded("libtorch"))
import torch
print(before == loaded("libgomp"))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_computes_the_same(level: str, kernel_levels: SetKernelLevels) -> None:
    """Attention and layer norm of each instruction set that this processor has."""
    kernel_levels({level: kernels.LEVELS[level]})
    assert kernels.library() is not None
    torch.manual_seed(0)
    qkv = torch.randn(sum(LENGTHS), 3, 4, 24)
    varlen = varlen_of(*LENGTHS)
    context = Attention(varlen, 4, torch.float32)(qkv.flatten(1))
    query, key, value = qkv.unbind(1)
    torch.testing.assert_close(context, attend(query, key, value, varlen).flatten(1), atol=2e-6, rtol=2e-6)
    x, weight, bias, multiplier = torch.randn(301, 96), torch.randn(96), torch.randn(96), torch.rand(96) * 50
    output, quantized = kernel_operators.layer_norm_quantize(x, weight, bias, 1e-12, multiplier, 128.5)
    kernel_levels({})
    expected, expected_quantized = kernel_operators.layer_norm_quantize(x, weight, bias, 1e-12, multiplier, 128.5)
    torch.testing.assert_close(output, expected, atol=5e-6, rtol=1e-5)
    torch.testing.assert_close(quantized.short(), expected_quantized.short(), atol=1, rtol=0)
    assert (quantized != expected_quantized).float().mean() < 1e-3


@pytest.mark.parametrize("width", [1, 15, 16, 33])
def test_a_layer_norm_of_any_width(width: int) -> None:
    """Rows whose last vector is not full."""
    x, weight, bias = torch.randn(7, width) * 3, torch.full((width,), 40.0), torch.full((width,), 100.0)
    output, quantized = kernel_operators.layer_norm_quantize(x, weight, bias, 1e-5, torch.ones(width), 0.0)
    torch.testing.assert_close(output, torch.nn.functional.layer_norm(x, (width,), weight, bias, 1e-5))
    assert torch.equal(quantized, kernel_operators.saturate_u8(output))


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


def test_kernels_that_cannot_be_loaded_are_logged(
    kernel_levels: SetKernelLevels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No compiled file, or one that is no library: one line says what to do, and PyTorch computes."""
    source = tmp_path / kernels.SOURCE.name
    shutil.copytree(kernels.SOURCE.parent, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))
    monkeypatch.setattr(kernels, "SOURCE", source)
    kernel_levels({"any": ()})
    assert kernels.library() is None
    assert "run scripts/setup.sh and pack again" in caplog.text
    kernels.path_of("any").write_bytes(b"no library")
    kernels.library.cache_clear()
    assert kernels.library() is None
    assert "cannot be loaded" in caplog.text


def test_without_the_right_to_use_tiles_the_next_level_computes(
    kernel_levels: SetKernelLevels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that refuses the matrix unit costs its speed, not the other kernels."""
    best, *_ = LEVELS
    kernel_levels({"refused": kernels.LEVELS[best], best: kernels.LEVELS[best]})
    path, load = kernels.path_of(best), kernels._load
    monkeypatch.setattr(kernels, "path_of", lambda _: path)
    monkeypatch.setattr(kernels, "_load", lambda level, path: None if level == "refused" else load(level, path))
    functions = kernels.library()
    assert functions is not None
    assert functions.level == best


def test_openmp_is_the_one_that_pytorch_would_load() -> None:
    """It is loaded without PyTorch, and found again when PyTorch is imported later: both share its threads."""
    done = subprocess.run([sys.executable, "-c", OPENMP], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "True"]


def test_a_changed_source_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of another source than the one beside them are never called; the compiler's message is shown."""
    source = tmp_path / kernels.SOURCE.name
    shutil.copytree(kernels.SOURCE.parent, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))
    before = kernels.path_of("x86_64_v3").name
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.path_of("x86_64_v3").name == before
    with (tmp_path / "product.h").open("a", encoding="utf-8") as header:
        header.write("\n")
    assert kernels.path_of("x86_64_v3").name != before
    source.write_text("int broken(void) { return }", encoding="utf-8")
    with pytest.raises(ScriptError, match=r"kernels.c does not compile for x86_64_v3: .*expected expression"):
        kernel_compiler.compile_for("x86_64_v3", tmp_path / "kernels.so")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("half", [4, 16, 20, 32])
def test_rotary_positions(dtype: torch.dtype, half: int, kernel_levels: SetKernelLevels) -> None:
    """Queries and keys are rotated; values, padding rows and other columns stay; the same with and without kernels."""
    torch.manual_seed(0)
    x, angles = torch.randn(70, 9 * 2 * half).to(dtype), torch.rand(65, half) * 6
    pair = angles.cos(), angles.sin()
    rotated = rotate(x.clone(), 6, pair)
    kernel_levels({})
    plain = rotate(x.clone(), 6, pair)
    torch.testing.assert_close(rotated, plain, atol=1e-6 if dtype == torch.float32 else 1e-2, rtol=1e-2)
    heads, expected = x[:65, : 12 * half].float().view(65, 6, 2, half), plain[:65, : 12 * half].float()
    complex_numbers = torch.complex(heads[:, :, 0], heads[:, :, 1]) * torch.polar(torch.ones(()), angles).unsqueeze(1)
    both = torch.stack((complex_numbers.real, complex_numbers.imag), 2).flatten(1)
    torch.testing.assert_close(expected, both, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=1e-2)
    torch.testing.assert_close(rotated[:, 12 * half :], x[:, 12 * half :], atol=0, rtol=0)
    torch.testing.assert_close(rotated[65:], x[65:], atol=0, rtol=0)
