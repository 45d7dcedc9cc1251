"""Segments, weights and linear layers: of numpy arrays what they are of tensors, and the same bits in any batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from handler.arrays import ArraySegments, Segments, TensorSegments, Weight, linear, namespace
from tests.support.samples import ROOT

COUNTS = (50, 50, 20, 7, 7, 7, 3, 1, 1)
LENGTHS = (50, 60, 20, 9, 7, 7, 5, 1, 12)  # of the texts, of which the last tokens are read
RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((sum(COUNTS), 24), dtype=np.float32)
OPERATIONS = ("first", "last", "sum", "max")
WITHOUT_TORCH = ("tensor_files", "sentence_layers", "sentence_modules", "model_folder", "tokenization", "tasks")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_segments_of_an_array_are_those_of_a_tensor(operation: str) -> None:
    """All bits are equal: sums add one row after the other in both."""
    computed = getattr(ArraySegments(COUNTS), operation)(ROWS)
    expected = getattr(TensorSegments(torch.tensor(COUNTS), len(ROWS)), operation)(torch.from_numpy(ROWS))
    assert computed.dtype == np.float32
    np.testing.assert_array_equal(computed, expected.numpy(), strict=True)


def test_sizes_and_positions_of_an_array_are_those_of_a_tensor() -> None:
    """The position of a token is that in its text, of which the first ones may not be read."""
    kinds: tuple[Segments, Segments] = ArraySegments(COUNTS), TensorSegments(torch.tensor(COUNTS), len(ROWS))
    arrays, tensors = kinds
    np.testing.assert_array_equal(arrays.sizes(), tensors.sizes().numpy())
    np.testing.assert_array_equal(arrays.positions(LENGTHS), tensors.positions(LENGTHS).numpy(), strict=True)
    assert arrays.positions(LENGTHS)[50:52].ravel().tolist() == [11.0, 12.0]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("width", [1, 24, 768])
def test_a_sequence_has_the_same_bits_in_any_batch(operation: str, width: int) -> None:
    """It is alone, beside others, and beside others of its length."""
    rows = RANDOM.standard_normal((2000, width), dtype=np.float32)
    alone = getattr(ArraySegments((700,)), operation)(rows[:700])
    for counts in ((700, 700, 600), (700, 300, 1000), (700, *(1,) * 1300)):
        np.testing.assert_array_equal(getattr(ArraySegments(counts), operation)(rows)[:1], alone)


def test_a_weight_becomes_a_tensor_once() -> None:
    """Its tensor has gradients computed with it, even if the first use was in inference mode."""
    weight, bias = Weight(ROWS[:5]), Weight(ROWS[0, :5])
    with torch.inference_mode():
        first = weight.beside(torch.from_numpy(ROWS))
    assert weight.beside(torch.from_numpy(ROWS)) is first
    assert weight.beside(ROWS) is weight.array
    vectors = torch.from_numpy(ROWS).requires_grad_()
    linear(vectors, weight, bias).sum().backward()
    assert vectors.grad is not None
    np.testing.assert_allclose(linear(ROWS, weight, bias), linear(vectors, weight, bias).detach(), atol=1e-5)
    np.testing.assert_allclose(linear(ROWS, weight), linear(vectors, weight).detach(), atol=1e-5)


def test_a_weight_lies_where_the_vectors_lie() -> None:
    """It has a tensor on each device."""
    weight = Weight(ROWS[:5])
    for device in ("meta", "cpu", "meta"):
        vectors = torch.from_numpy(ROWS).to(device)
        assert weight.beside(vectors).device == vectors.device
        assert linear(vectors, weight, Weight(ROWS[0, :5])).shape == (len(ROWS), 5)


def test_the_namespace_of_an_array() -> None:
    """It is numpy or torch."""
    assert namespace(ROWS) is np
    assert namespace(torch.from_numpy(ROWS)) is torch


def test_these_modules_need_no_torch() -> None:
    """A process in which PyTorch cannot be imported imports them."""
    code = "import sys; sys.modules['torch'] = None\n" + "".join(f"import handler.{name}\n" for name in WITHOUT_TORCH)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
