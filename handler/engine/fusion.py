"""Operators between two linear layers on a GPU, each compiled by PyTorch to one pass over memory.

Linear layers stay with cuBLAS. Between them there is little arithmetic and much memory traffic, so an operator that
passes over memory several times costs as many times as much. An operator is a plain function that defines what is
computed. Its compiled form is run at load, with two numbers of rows, and compared with the plain one. No other shape
of its arguments ever changes, so nothing is compiled when requests come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.encoder import Layer
from handler.engine.linear import ACTIVATIONS, LayerNorm, Linear

logger = logging.getLogger(__name__)

Op = Callable[..., Any]  # of states (rows, width) and more arguments, to a tensor or several
Example = Callable[[int], tuple[Any, ...]]  # number of rows -> arguments of an operator

# Rows of the examples: the compiler specializes a loop for the first number, and generalizes it with the second.
EXAMPLE_ROWS = (4096, 41)
RTOL = 0.05  # of the norm of a row: the plain operator rounds between steps where the compiled one does not


class FusedAddNorm:
    """The end of each half of a layer with a compiled operator, see `Layer`."""

    def __init__(self, op: Op) -> None:
        self._op = op

    def __call__(self, linear: Linear, x: Tensor, residual: Tensor, norm: LayerNorm) -> Tensor:
        output: Tensor = self._op(linear(x), residual, norm.weight, norm.bias, norm.eps)
        return output


def fused_layer(layer: Layer, op: Op) -> Layer:
    """Return a prepacked layer that adds a residual and normalizes by a compiled `add_norm`."""
    return layer.with_operators(FusedAddNorm(op))


class GeluLinear(Linear):
    """A linear layer whose GELU is computed by cuBLAS within the product, (tokens, in) -> (tokens, out)."""

    def __init__(self, linear: Linear) -> None:
        """Share the weights of a prepacked linear layer."""
        super().__init__()
        self._weight, self._bias = linear.dense()
        self._transposed = self._weight.t()

    def __call__(
        self,
        x: Tensor,
        activation: str | None = None,
        residual: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Multiply and apply GELU: its tanh form on a GPU, the erf form on a CPU."""
        if torch.is_grad_enabled() and x.requires_grad:
            return super().__call__(x, activation, residual, factor)
        return torch._addmm_activation(self._bias, x, self._transposed, use_gelu=True)


@torch.inference_mode()
def gelu_layer(layer: Layer, dtype: torch.dtype) -> Layer:
    """Return a prepacked layer with GELU inside the product; the same layer where that would differ.

    cuBLAS has the tanh form. Where the model's GELU is that form it is exact. In bf16 the two forms differ by an eighth
    of the rounding of one number (0.0018 against 0.0107 on logits of a sentiment model, 2026-11-27), so bf16 takes it
    as well; fp16 and fp32 keep the erf form.
    """
    is_tanh = ACTIVATIONS.get(layer.activation, ("",))[:2] == ("gelu", "tanh")
    if not is_tanh and not (layer.activation == "gelu" and dtype == torch.bfloat16):
        return layer
    if "gate" in layer.linears:  # the activation is that of the gate
        return layer
    plain, linears = layer.linears["intermediate"], dict(layer.linears)
    linears["intermediate"] = fused = GeluLinear(plain)
    weight = plain.dense()[0]
    x = torch.randn(EXAMPLE_ROWS[1], weight.shape[1], device=weight.device).to(dtype)
    try:
        same = rows_allclose(fused(x, layer.activation), plain(x, layer.activation), RTOL)
    except RuntimeError:  # a device or a dtype without it
        same = False
    return layer.with_operators(layer.add_norm, linears) if same else layer


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Add a residual (rows, width) and normalize every row, in fp32."""
    states = x.float() + residual.float()
    return functional.layer_norm(states, states.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def example_of(layer: Layer, dtype: torch.dtype) -> Example:
    """Return a function that makes arguments of `add_norm` as a layer passes them."""
    norm = layer.norms["output_norm"]

    def make(rows: int) -> tuple[Any, ...]:
        shape = (rows, len(norm.weight))
        states, residual = (torch.randn(shape, device=norm.weight.device).to(dtype) for _ in "12")
        return states, residual, norm.weight, norm.bias, norm.eps

    return make


def compile_ops(ops: Sequence[tuple[Op, Example]], backend: str = "inductor") -> list[Op] | None:
    """Compile operators for any number of rows; log a warning and return None where that fails or outputs differ."""
    try:
        import torch._inductor.config as settings  # takes time, and only a GPU needs it

        with settings.patch(compile_threads=1):  # a few small kernels: no processes that then stay with the worker
            return [_compile(op, example, backend) for op, example in ops]
    except Exception as error:  # noqa: BLE001 - no compiler, no driver, a bug in either: the plain operators always work
        reason = " ".join(str(error).split())[:200]
        logger.warning("steps between products are not fused, which is slower: %s %s", type(error).__name__, reason)
        return None


@torch.inference_mode()
def _compile(op: Op, example: Example, backend: str) -> Op:
    compiled = torch.compile(op, backend=backend, fullgraph=True)
    for rows in EXAMPLE_ROWS:
        arguments = example(rows)
        for states in arguments:
            if isinstance(states, Tensor) and states.dim() == 2:
                torch._dynamo.mark_dynamic(states, 0)
        for output, expected in zip(_as_list(compiled(*arguments)), _as_list(op(*arguments)), strict=True):
            if not rows_allclose(output, expected, RTOL):
                raise ArithmeticError(f"{op.__name__} computes something else when it is compiled")

    def run(x: Tensor, *rest: Any) -> Any:
        # A single row would be compiled anew, and so would what explanations compute, outside of inference mode.
        return (compiled if len(x) > 1 and torch.is_inference_mode_enabled() else op)(x, *rest)

    return run


def rows_allclose(rows: Tensor, expected: Tensor, rtol: float) -> bool:
    """Tell whether every row (rows, width) is within `rtol` of the norm of the expected one; NaN never is."""
    distance, norm = (x.norm(dim=-1) for x in (rows.float() - expected.float(), expected.float()))
    return bool((distance <= rtol * norm.clamp(min=1e-6)).all())


def _as_list(output: Any) -> Sequence[Tensor]:
    return [output] if isinstance(output, Tensor) else output
