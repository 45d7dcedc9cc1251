"""AdamW for training on a CPU: gradients are clipped and weights packed for the products of the layers in its one pass.

The state is that of PyTorch's AdamW, and so are the results but for rounding. PyTorch's own needs a pass for the norm,
one to scale all gradients and one for the update, and the layers read the weights again to pack them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from ctypes import c_double, c_float, c_int64, c_void_p
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scripts.training import native

CHUNK = 16384  # as in native/adamw.h


class PackedWeight(NamedTuple):
    """Where the weight (out, in) of a linear layer is packed for both directions, as a part of several."""

    forward: Tensor  # (blocks of out, steps of in, SIDE * SIDE)
    backward: Tensor  # (blocks of in, steps of out, SIDE * SIDE)
    first: int  # block of `forward` and step of `backward`


class _Parameter(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weights", "gradient", "mean", "mean_square")),
        *(("n", c_int64), ("width", c_int64), ("forward", c_void_p), ("backward", c_void_p)),
        *((name, c_int64) for name in ("forward_steps", "backward_steps", "first")),
        *((name, c_float) for name in ("decay", "step_size", "inv_correction", "unused")),
    )


class _AdamW(ctypes.Structure):
    _fields_ = (
        *(("parameters", c_void_p), ("sums", c_void_p), ("n_parameters", c_int64), ("next", c_int64)),
        *((name, c_float) for name in ("scale", "beta_1", "beta_2", "eps")),
    )


class ClippingAdamW(torch.optim.AdamW):
    """PyTorch's AdamW on contiguous parameters in fp32, whose gradients `clip` may scale before a step."""

    def __init__(self, params: Any, packed: Mapping[Tensor, PackedWeight], **options: Any) -> None:
        """Keep where weights are packed after each step; `options` are those of PyTorch's AdamW."""
        super().__init__(params, fused=True, **options)
        self.packed = packed
        self._scale = 1.0

    def clip(self, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
        """Return the norm of all gradients; the next step scales them down to `max_norm` where they are read."""
        with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
        rows = (_Parameter * len(with_gradient))()
        sizes = [self._describe(row, parameter) for row, parameter in zip(rows, with_gradient, strict=True)]
        sums = (c_double * sum(sizes))()
        args = _AdamW(ctypes.addressof(rows), ctypes.addressof(sums), len(rows))
        native.call("squares", args, CHUNK * len(sums))
        norm = sum(sums) ** 0.5
        self._scale = min(1.0, max_norm / (norm + 1e-6))
        return torch.tensor(norm)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        self._scale = 1.0
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters: list[Tensor] = []
        states: tuple[list[Tensor], ...] = ([], [], [], [], [])
        self._init_group(group, parameters, *states)  # type: ignore[no-untyped-call]
        _, means, mean_squares, _, steps = states
        if not parameters:
            return
        torch._foreach_add_(steps, 1)
        (beta_1, beta_2), rate = group["betas"], float(group["lr"])
        rows = (_Parameter * len(parameters))()
        for row, parameter, mean, mean_square, step in zip(rows, parameters, means, mean_squares, steps, strict=True):
            self._describe(row, parameter)
            row.weights, row.mean, row.mean_square = parameter.data_ptr(), mean.data_ptr(), mean_square.data_ptr()
            row.decay, n_steps = 1 - rate * group["weight_decay"], float(step)
            row.step_size, row.inv_correction = rate / (1 - beta_1**n_steps), (1 - beta_2**n_steps) ** -0.5
        args = _AdamW(ctypes.addressof(rows), None, len(rows), 0, self._scale, beta_1, beta_2, group["eps"])
        native.call("adamw", args, sum(parameter.numel() for parameter in parameters))

    def _describe(self, row: _Parameter, parameter: Tensor) -> int:
        """Fill in the gradient and where weights are packed; return the number of chunks."""
        assert parameter.grad is not None
        if not parameter.grad.is_contiguous():
            parameter.grad = parameter.grad.contiguous()
        row.gradient, row.n = parameter.grad.data_ptr(), parameter.numel()
        packed = self.packed.get(parameter)
        if packed is None:
            return -(-parameter.numel() // CHUNK)
        row.width, row.first = parameter.shape[1], packed.first
        row.forward, row.backward = packed.forward.data_ptr(), packed.backward.data_ptr()
        row.forward_steps, row.backward_steps = packed.forward.shape[1], packed.backward.shape[1]
        return len(parameter) // native.SIDE


def clip_in_step(trainer: Any) -> None:
    """Let a Trainer with this optimizer clip gradients by it."""

    def clip(parameters: Iterable[Tensor], max_norm: float, *_: Any) -> Tensor:
        norm: Tensor = trainer.optimizer.optimizer.clip(parameters, max_norm)  # accelerate wraps the optimizer
        return norm

    trainer.accelerator.clip_grad_norm_ = clip


def fits(model: nn.Module) -> bool:
    """Tell whether there are kernels, and whether they can change the parameters of a model."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_plain = all(p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in trained)
    return native.library() is not None and is_plain
