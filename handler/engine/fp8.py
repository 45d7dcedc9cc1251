"""Eight-bit floats (E4M3): weights with a scale for each output, states with a scale for each token.

A token's scale is found while it is rounded and depends on nothing else, so no text's answer depends on its company,
and nothing has to be calibrated; whether a model keeps its accuracy is found out when it is packed
(scripts/archives/fp8.py).
The residual, and all that is no product, stays in bf16. On a CPU the same numbers are multiplied in fp32: slow, and
what the look at the accuracy and the tests compute with.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from handler.engine import fusion
from handler.engine.encoder import (
    ACTIVATIONS,
    Layer,
    Norm,
    PackedEncoder,
    Product,
    activation_of,
    encoder_name,
)
from handler.engine.fusion import Step

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
DIP = 0.18  # more than a GELU ever goes below zero
MULTIPLE = 16  # of every width, which the hardware asks for


class Eights(NamedTuple):
    """Rows as numbers of eight bits times a scale each."""

    values: Tensor  # (rows, width) in E4M3
    scale: Tensor  # (rows, 1) in fp32


class States(NamedTuple):
    """What travels between layers: states in bf16 for the residual, and in eight bits for the next product."""

    plain: Tensor  # (tokens, width)
    eights: Eights

    def index_select(self, dim: int, index: Tensor) -> States:
        """Choose tokens, as of a tensor."""
        plain = self.plain.index_select(dim, index)
        return States(plain, Eights(*rounded(plain)))

    def float(self) -> Tensor:
        """Return the states in fp32, as of a tensor."""
        return self.plain.float()


# --- steps between products, see handler.engine.fusion --------------------------------------------------------------


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round every row to eight bits, and return its scale: its largest number becomes the largest that there is."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1e-12)
    return (x / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


def activated(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Apply an activation to (rows, width) and round; its largest number is what becomes of the largest one before."""
    function, x = ACTIVATIONS[activation][2], x.float()
    scale = function(x.amax(-1, keepdim=True)).clamp(min=DIP) / LARGEST
    return (function(x) / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


def normed(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add a residual (rows, width) and normalise every row; return it plain, rounded, and its scale."""
    states = fusion.normed(x, residual, weight, bias, eps)
    return states, *rounded(states)


class Steps(NamedTuple):
    """The steps of a model, plain or fused."""

    rounded: Step = rounded
    activated: Step = activated
    normed: Step = normed


def fused_steps(layer: Layer, activation: str) -> Steps:
    """Return the steps of a settled layer fused; plain ones where they cannot be."""
    like, inner = fusion.example_of(layer, torch.bfloat16), len(layer.products()["up"].plain()[1])

    def narrow(rows: int) -> tuple[Any, ...]:
        return like(rows)[:1]

    def wide(rows: int) -> tuple[Any, ...]:
        return like(rows)[0].new_empty(rows, inner).normal_(), activation

    found = fusion.fused([(rounded, narrow), (activated, wide), (normed, like)])
    return Steps() if found is None else Steps(*found)


# --- layers ----------------------------------------------------------------------------------------------------------


class Fp8Product(Product):
    """x W^T + b of eight-bit floats, (tokens, in) -> (tokens, out) in bf16."""

    def __init__(self, product: Product, steps: Steps) -> None:
        """Round the weights of a settled product."""
        super().__init__()
        weight, bias = product.plain()
        values, scale = rounded(weight)
        self._values = values.contiguous().t()  # (in, out), each column in one piece, as the hardware reads it
        self._scale = scale.t().contiguous()  # (1, out)
        self._bias, self._steps = bias.to(torch.bfloat16), steps

    def __call__(self, x: Any, activation: str | None = None, residual: Tensor | None = None) -> Any:
        """Multiply States, Eights, or a tensor, which is rounded first; with an activation, return Eights."""
        eights = x.eights if isinstance(x, States) else x if isinstance(x, Eights) else Eights(*self._steps.rounded(x))
        y = multiplied(eights, self._values, self._scale, self._bias)
        return y if activation is None else Eights(*self._steps.activated(y, activation))


class Fp8Layer(Layer):
    """One layer, from States to States."""

    def __init__(self, layer: Layer, steps: Steps) -> None:
        """Round a settled layer."""
        vars(self).update(vars(layer))
        self._steps = steps
        self._query = None if layer._query is None else Fp8Product(layer._query, steps)
        self._states, self._output = Fp8Product(layer._states, steps), Fp8Product(layer._output, steps)
        self._up, self._down = Fp8Product(layer._up, steps), Fp8Product(layer._down, steps)

    def _join(self, product: Product, x: Any, residual: Any, norm: Norm) -> Any:
        plain, values, scale = self._steps.normed(product(x), residual.plain, norm.weight, norm.bias, norm.eps)
        return States(plain, Eights(values, scale))


class Fp8Encoder(PackedEncoder):
    """Layers of eight-bit floats."""

    def __init__(self, encoder: PackedEncoder, steps: Steps) -> None:
        """Round the layers of a settled encoder one after the other; it loses its own, and so their memory."""
        super().__init__([], encoder.heads, torch.bfloat16)
        self._steps = steps
        while encoder.layers:
            self.layers.append(Fp8Layer(encoder.layers.pop(0), steps))

    def enter(self, states: Tensor) -> Any:
        plain = states.to(self.dtype)
        return States(plain, Eights(*self._steps.rounded(plain)))


def multiplied(rows: Eights, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Multiply eight-bit rows (rows, in) by a weight (in, out) with a scale (1, out), to bf16."""
    if rows.values.is_cuda:
        how: dict[str, Any] = {"bias": bias, "out_dtype": torch.bfloat16, "use_fast_accum": True}
        return torch._scaled_mm(rows.values, weight, rows.scale, scale, **how)
    return (rows.values.float() @ weight.float() * rows.scale * scale + bias.float()).to(torch.bfloat16)


def install(model: PreTrainedModel, *, fuse: bool = False) -> None:
    """Round the settled encoder of a model, in its place."""
    name = encoder_name(model.base_model) or ""
    encoder: PackedEncoder = getattr(model.base_model, name)
    steps = fused_steps(encoder.layers[0], activation_of(model.config) or "") if fuse else Steps()
    setattr(model.base_model, name, Fp8Encoder(encoder, steps))


def refusal(encoder: nn.Module) -> str:
    """Say why a settled encoder cannot be rounded; nothing where it can."""
    if not isinstance(encoder, PackedEncoder):
        return "its layers are none that this handler knows"
    widths = {width for product in encoder.layers[0].products().values() for width in product.plain()[0].shape}
    odd = sorted(width for width in widths if width % MULTIPLE)
    return f"a width of {odd[0]} is no multiple of {MULTIPLE}" if odd else ""


@functools.cache
def supported(device: torch.device) -> bool:
    """Tell whether the device multiplies eight-bit floats with a scale for each row and column, by doing it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    ones = Eights(*rounded(torch.ones(32, 32, device=device)))
    bias = torch.ones(32, device=device, dtype=torch.bfloat16)
    try:
        found = multiplied(ones, ones.values.t(), ones.scale.t().contiguous(), bias)
    except RuntimeError:  # cuBLAS has no such kernel for some architectures (GeForce of Blackwell, 2026-08)
        return False
    return bool((found == 33).all())
