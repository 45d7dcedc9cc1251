"""What is done to states between two products on a GPU: one pass over memory each, made by PyTorch's compiler.

Products stay with cuBLAS. Between them there is little to compute and much to read and write, so a step that does so
several times costs as many times as much. A step is a plain function, and what it says is what is computed; its
compiled form is tried at load, on two numbers of rows, and compared with the plain one. Nothing else of what a step
sees ever changes, so nothing is compiled anew when requests come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.encoder import Layer, Norm, Product

logger = logging.getLogger(__name__)

Step = Callable[..., Any]  # of states (rows, width), and more, to a tensor or several
Example = Callable[[int], tuple[Any, ...]]  # so many rows -> arguments of a step

# Rows of the trials: the compiler lays a loop out for the first number, and proves with the second that any will do.
TRIED = (4096, 41)
NEAR = 0.05  # of the length of a row: the plain step rounds on the way where the compiled one does not


class FusedLayer(Layer):
    """A settled layer that adds a residual and normalises in one step."""

    def __init__(self, layer: Layer, step: Step) -> None:
        vars(self).update(vars(layer))
        self._step = step

    def _join(self, product: Product, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        found: Tensor = self._step(product(x), residual, norm.weight, norm.bias, norm.eps)
        return found


def normed(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Add a residual (rows, width) and normalise every row, in fp32."""
    states = x.float() + residual.float()
    return functional.layer_norm(states, states.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def example_of(layer: Layer, dtype: torch.dtype) -> Example:
    """Return a maker of arguments of `normed` as a layer has them."""
    norm = layer.norms()["norm"]

    def make(rows: int) -> tuple[Any, ...]:
        shape = (rows, len(norm.weight))
        states, residual = (torch.randn(shape, device=norm.weight.device).to(dtype) for _ in "12")
        return states, residual, norm.weight, norm.bias, norm.eps

    return make


def fused(steps: Sequence[tuple[Step, Example]], backend: str = "inductor") -> list[Step] | None:
    """Compile steps for any number of rows; None, and a line in the log, where that fails or says something else."""
    try:
        import torch._inductor.config as settings  # takes time, and only a GPU needs it

        with settings.patch(compile_threads=1):  # a few small kernels: no processes that then stay with the worker
            return [_fused(step, example, backend) for step, example in steps]
    except Exception as error:  # noqa: BLE001 - no compiler, no driver, a bug in either: what is plain always works
        reason = " ".join(str(error).split())[:200]
        logger.warning("steps between products are not fused, which is slower: %s %s", type(error).__name__, reason)
        return None


@torch.inference_mode()
def _fused(step: Step, example: Example, backend: str) -> Step:
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    for rows in TRIED:
        arguments = example(rows)
        for states in arguments:
            if isinstance(states, Tensor) and states.dim() == 2:
                torch._dynamo.mark_dynamic(states, 0)
        for found, expected in zip(_several(compiled(*arguments)), _several(step(*arguments)), strict=True):
            if not near(found, expected, NEAR):
                raise ArithmeticError(f"{step.__name__} says something else when it is compiled")

    def run(x: Tensor, *rest: Any) -> Any:
        # A single row would be compiled anew, and so would what explanations compute, outside of inference mode.
        return (compiled if len(x) > 1 and torch.is_inference_mode_enabled() else step)(x, *rest)

    return run


def near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Tell whether every row (rows, width) lies near the expected one, as a part of its length; NaN never does."""
    distance, length = (rows.norm(dim=-1) for rows in (found.float() - expected.float(), expected.float()))
    return bool((distance <= tolerance * length.clamp(min=1e-6)).all())


def _several(found: Any) -> Sequence[Tensor]:
    return [found] if isinstance(found, Tensor) else found
