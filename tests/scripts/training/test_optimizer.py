"""AdamW of our own: the parameters and the state of PyTorch's, with gradients that are clipped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.training import native, optimizer
from scripts.training.optimizer import ClippingAdamW, PackedWeight

# Elsewhere PyTorch's AdamW trains, which the tests of training run with.
pytestmark = pytest.mark.skipif(not optimizer.fits(nn.Linear(1, 1)), reason="no kernels for this processor")
OPTIONS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-6}
SHAPES = ((64, 96), (5, 33000), (7,), (3, 3))  # packed, more than a chunk, less than a vector, without gradient


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def train(adamw: torch.optim.AdamW, own: list[nn.Parameter], steps: range, max_norm: float) -> list[float]:
    """Return the norms of the gradients of some steps."""
    norms = []
    for step in steps:
        torch.manual_seed(step)
        for parameter in own[:-1]:
            parameter.grad = torch.randn(parameter.shape[::-1]).t() if step % 2 else torch.randn(parameter.shape)
        adamw.param_groups[0]["lr"] = 1e-2 * (1 + step % 3)
        clip = adamw.clip if isinstance(adamw, ClippingAdamW) else nn.utils.clip_grad_norm_
        norms.append(float(clip(own, max_norm)))
        adamw.step()
    return norms


@pytest.mark.parametrize("max_norm", [1.0, 1e6])
def test_it_does_what_pytorchs_does(max_norm: float) -> None:
    """Also when it goes on from the state of PyTorch's, and with gradients in another order in memory."""
    own, theirs = parameters(), parameters()
    ours, reference = ClippingAdamW(own, {}, **OPTIONS), torch.optim.AdamW(theirs, foreach=False, **OPTIONS)
    for steps in (range(4), range(4, 8)):
        assert train(ours, own, steps, max_norm) == pytest.approx(train(reference, theirs, steps, max_norm), rel=1e-5)
        for parameter, expected in zip(own, theirs, strict=True):
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
        ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert ours.state_dict()["state"].keys() == reference.state_dict()["state"].keys()


def test_the_number_of_threads_changes_no_bit() -> None:
    results: list[list[Tensor]] = []
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            own = parameters()
            norms = train(ClippingAdamW(own, {}, **OPTIONS), own, range(3), 1.0)
            results.append([*(parameter.detach() for parameter in own), torch.tensor(norms)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], result, strict=True))


# Elsewhere weights are not packed.
@pytest.mark.skipif(not (library := native.library()) or not library.has_tiles, reason="weights are packed for AMX")
def test_weights_are_packed_as_for_the_products() -> None:
    """The second of three weights of one product: both others stay as they are."""
    weight, shape = parameters()[0], SHAPES[0]
    blocks, steps = 3 * shape[0] // native.SIDE, shape[1] // native.SIDE
    forward, backward = (
        torch.full((*size, native.SIDE**2), 7.0).bfloat16() for size in ((blocks, steps), (steps, blocks))
    )
    first = shape[0] // native.SIDE
    adamw = ClippingAdamW([weight], {weight: PackedWeight(forward, backward, first)}, **OPTIONS)
    expected = forward.clone(), backward.clone()
    train(adamw, [weight, weight], range(3), 1.0)
    native.pack(weight.detach(), "along_columns", expected[0], first_block=first)
    native.pack(weight.detach(), "along_rows", expected[1], first_step=first)
    assert torch.equal(forward, expected[0])
    assert torch.equal(backward, expected[1])
    assert (forward[:first] == 7).all()
