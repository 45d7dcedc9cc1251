"""Linear layers and layer norms that own their weights, in the precision and memory order that suit a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from handler.engine.kernel_operators import to_array, to_tensor
from handler.engine.native_encoder import NativeNorm, PackedLinear
from handler.engine.packing import unpack

Order: TypeAlias = Literal[
    "rows", "onednn", "native"
]  # of weights in memory: as they are, or for who multiplies by them

# Names in a config -> oneDNN's name and algorithm, and the function.
ACTIVATIONS: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "gelu": ("gelu", "none", functional.gelu),
    "gelu_new": ("gelu", "tanh", lambda x: functional.gelu(x, approximate="tanh")),
    "gelu_pytorch_tanh": ("gelu", "tanh", lambda x: functional.gelu(x, approximate="tanh")),
    "relu": ("relu", "", functional.relu),
    "silu": ("swish", "", functional.silu),
}


class LoadedLinear(nn.Linear):
    """A linear module whose weights are given: random ones are not computed, which on meta imports torch._dynamo."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Linear:
    """x W^T + b of one or several linear modules side by side: (tokens, in) -> (tokens, sum of their outs)."""

    def __init__(self, *modules: nn.Linear) -> None:
        """Refer to the modules; their weights are copied by `prepack`."""
        self._modules = modules
        self._weight = self._bias = torch.empty(0)
        self._n_in = modules[0].in_features if modules else 0
        self.packed: PackedLinear | None = None  # in the place of `_weight`, for the native encoder
        self._dense: Tensor | None = None

    def prepack(self, dtype: torch.dtype, *, order: Order) -> None:
        """Concatenate the weights in `dtype` and in an order, and release the modules."""
        weights = torch.cat([module.weight.detach() for module in self._modules]).to(dtype)
        bias = torch.cat([_bias_of(module) for module in self._modules])
        self._bias = bias.to(dtype)
        if order == "native":
            self.packed = PackedLinear.in_floats(to_array(weights), to_array(bias))
        else:
            reorder = order == "onednn"
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weights, None) if reorder else weights
        self._modules = ()

    def __call__(
        self,
        x: Tensor,
        activation: str | None = None,
        residual: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Multiply, then apply an activation, add a residual (tokens, out), or multiply by a factor (tokens, out)."""
        if not self._weight.is_mkldnn or (torch.is_grad_enabled() and x.requires_grad):
            y = self._differentiable(x)
            if activation is not None:
                y = ACTIVATIONS[activation][2](y)
            y = y if residual is None else y + residual
            return y if factor is None else y * factor
        operator, weight, bias = torch.ops.mkldnn._linear_pointwise, self._weight, self._bias
        if residual is not None:
            return operator.binary(x, residual, weight, bias, "add")  # type: ignore[no-any-return]
        if factor is not None:
            return operator.binary(x, factor, weight, bias, "mul")  # type: ignore[no-any-return]
        attribute, algorithm = ACTIVATIONS[activation][:2] if activation else ("none", "")
        return operator(x, weight, bias, attribute, [], algorithm)  # type: ignore[no-any-return]

    @property
    def n_out(self) -> int:
        """How many outputs it has, before `prepack`."""
        return sum(module.out_features for module in self._modules)

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return weight (out, in) and bias (out,) after `prepack`, in row-major order."""
        if self._dense is not None:
            return self._dense, self._bias
        if self.packed is not None:
            return to_tensor(unpack(self.packed.weight, self.packed.n_out, self._n_in)), self._bias
        return self._weight.to_dense() if self._weight.is_mkldnn else self._weight, self._bias

    def keep_dense(self, keep: bool) -> None:
        """Keep what `dense` returns, or release it: for many calls of one that is packed for the native encoder."""
        self._dense = self.dense()[0] if keep and self.packed is not None else None

    def _differentiable(self, x: Tensor) -> Tensor:
        """Multiply by operators that have gradients; works before `prepack` as well."""
        if self._modules:
            return torch.cat([module(x) for module in self._modules], -1)
        return functional.linear(x, *self.dense())


class LayerNorm:
    """A layer norm over the last axis."""

    def __init__(self, module: nn.Module) -> None:
        """Take the parameters of `nn.LayerNorm`, or of a module like it that names its epsilon otherwise (DeBERTa)."""
        self.weight, self.eps, bias = *_weight_and_eps(module), module.bias
        self.bias = torch.zeros_like(self.weight) if bias is None else torch.as_tensor(bias).detach()
        self._shape = self.weight.shape

    def prepack(self, dtype: torch.dtype) -> None:
        self.weight, self.bias = self.weight.to(dtype), self.bias.to(dtype)

    def native(self) -> NativeNorm:
        """Return its weights in fp32, for the native encoder."""
        return NativeNorm(to_array(self.weight.float()), to_array(self.bias.float()), self.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self._shape, self.weight, self.bias, self.eps)


class RMSNorm(LayerNorm):
    """A norm by the root of the mean square over the last axis, as in Llama."""

    def __init__(self, module: nn.Module) -> None:
        self.weight, self.eps = _weight_and_eps(module)
        self.bias, self._shape = torch.zeros_like(self.weight), self.weight.shape  # the bias is never added

    def native(self) -> NativeNorm:
        return super().native()._replace(is_rms=True)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self._shape, self.weight, self.eps)


def norm_of(module: nn.Module) -> LayerNorm:
    """Return the norm of a module: a layer norm has a bias, or None in the place of one."""
    return LayerNorm(module) if hasattr(module, "bias") else RMSNorm(module)


def _weight_and_eps(module: nn.Module) -> tuple[Tensor, float]:
    eps = next(getattr(module, name) for name in ("eps", "variance_epsilon") if hasattr(module, name))
    return torch.as_tensor(module.weight).detach(), float(torch.as_tensor(eps))


def _bias_of(module: nn.Linear) -> Tensor:
    return torch.zeros_like(module.weight[:, 0]) if module.bias is None else module.bias.detach()
