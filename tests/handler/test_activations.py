"""The activations of torch.nn of numpy arrays: all that a folder can name, with the numbers of PyTorch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from handler.activations import ACTIVATIONS, activate
from handler.sentence_layers import INCOMPLETE


@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_equals_that_of_torch(name: str) -> None:
    """Of small numbers, of large ones without a warning, and of zeros."""
    numbers = np.random.default_rng(0).standard_normal((60, 8), dtype=np.float32) * np.logspace(
        -4, 3, 8, dtype=np.float32
    )
    vectors = np.concatenate((numbers, np.zeros((2, 8), np.float32), -numbers))
    expected = activate(name, torch.from_numpy(vectors))
    computed = activate(name, vectors)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, expected.numpy(), rtol=2e-6, atol=2e-6)
    assert torch.equal(expected, getattr(nn, name)().eval()(torch.from_numpy(vectors)))


def test_every_activation_of_torch_is_known() -> None:
    """None is missing that PyTorch makes without arguments."""
    kinds = [kind for _, kind in inspect.getmembers(nn.modules.activation, inspect.isclass)]
    known = {kind.__name__ for kind in kinds if kind.__module__ == nn.modules.activation.__name__}
    assert known | {"Identity"} == {*ACTIVATIONS, *INCOMPLETE}


def test_gelu_is_accurate() -> None:
    """The error function has the accuracy of fp32, in the tail too."""
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(activate("GELU", x) - expected).max() < 1e-6
