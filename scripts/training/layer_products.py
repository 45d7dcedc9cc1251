"""The products of a layer that is trained on a CPU, forwards and backwards, by oneDNN or by the matrix unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.engine.layer_weights import LayerWeights
from scripts.training import native
from scripts.training.optimizer import PackedWeight

LINEARS = ("query", "key", "value", "attention_output", "intermediate", "output")  # of a layer


class Products:
    """The four products of a layer, with its weights in fp32 or bf16: copied anew when they have changed.

    They are those of queries, keys and values as one, of the attention output, and of the two of the feed-forward.
    """

    def __init__(self, layer: LayerWeights, dtype: torch.dtype) -> None:
        """Allocate the weights (out, in)."""
        groups = [
            (layer.query, layer.key, layer.value),
            (layer.attention_output,),
            (layer.intermediate,),
            (layer.output,),
        ]
        self.sources = [[module.weight for module in group] for group in groups]
        self._versions: list[int] = []
        self._allocate(dtype)

    def update(self, is_stale: bool) -> None:
        """Copy the weights if they are stale, or another version than those that were copied."""
        # The fused optimizers of PyTorch do not count the versions up.
        versions = [source._version for group in self.sources for source in group]
        if is_stale or versions != self._versions:
            self._versions = versions
            self._copy()

    def packed(self) -> dict[Tensor, PackedWeight]:
        """Return where weights are packed, for an optimizer that packs them anew."""
        return {}

    def _allocate(self, dtype: torch.dtype) -> None:
        sizes = [[len(source) for source in group] for group in self.sources]
        widths = [group[0].shape[1] for group in self.sources]
        self._weights = [torch.empty(sum(size), width, dtype=dtype) for size, width in zip(sizes, widths, strict=True)]
        self._parts = [part for weight, size in zip(self._weights, sizes, strict=True) for part in weight.split(size)]  # type: ignore[no-untyped-call]

    def _copy(self) -> None:
        torch._foreach_copy_(self._parts, [source.detach() for group in self.sources for source in group])

    def output(self, index: int, x: Tensor) -> Tensor:
        """Return x @ weight.T (rows, out) of x (rows, in)."""
        return x @ self._weights[index].t()

    def to_input(self, index: int, gradient: Tensor) -> Tensor:
        """Return the gradient (rows, in) of x."""
        return gradient @ self._weights[index]

    def to_weight(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient (out, in) of the weight in fp32."""
        return (gradient.t() @ x).float()


class TiledProducts(Products):
    """The same by the matrix unit, in bf16, with weights that are packed for both directions."""

    def _allocate(self, dtype: torch.dtype) -> None:
        self._forward, self._backward = [], []
        for group in self.sources:
            blocks, steps = sum(len(source) for source in group) // native.SIDE, group[0].shape[1] // native.SIDE
            self._forward.append(torch.empty(blocks, steps, native.SIDE**2, dtype=dtype))
            self._backward.append(torch.empty(steps, blocks, native.SIDE**2, dtype=dtype))

    def packed(self) -> dict[Tensor, PackedWeight]:
        result: dict[Tensor, PackedWeight] = {}
        for group, forward, backward in zip(self.sources, self._forward, self._backward, strict=True):
            first = 0
            for source in group:
                result[source] = PackedWeight(forward, backward, first)
                first += len(source) // native.SIDE
        return result

    def _copy(self) -> None:
        for source, (forward, backward, first) in self.packed().items():
            native.pack(source.detach(), "along_columns", forward, first_block=first)
            native.pack(source.detach(), "along_rows", backward, first_step=first)

    def output(self, index: int, x: Tensor) -> Tensor:
        return native.product(x, self._forward[index], x.dtype)

    def to_input(self, index: int, gradient: Tensor) -> Tensor:
        return native.product(gradient, self._backward[index], gradient.dtype)

    def to_weight(self, gradient: Tensor, x: Tensor) -> Tensor:
        return native.product(native.packed(gradient, "left"), native.packed(x, "along_rows"), torch.float32)


def fits_tiles(layers: Sequence[LayerWeights]) -> bool:
    """Tell whether this processor multiplies the weights of these layers by its matrix unit."""
    library = native.library()
    sizes = [size for layer in layers for name in LINEARS for size in getattr(layer, name).weight.shape]
    return library is not None and library.has_tiles and all(size % native.SIDE == 0 for size in sizes)
