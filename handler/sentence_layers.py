"""The layers behind the pooling of a sentence-transformers folder, and how the files of its modules are read.

Source: the file formats of sentence-transformers 2 to 6, as the library saves and loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from handler import protocol
from handler.activations import ACTIVATIONS, activate
from handler.arrays import Array, Weight, linear
from handler.errors import MalformedBody, ModelMismatch
from handler.protocol import JSON
from handler.tensor_files import read_safetensors

MODULES_FILE = "modules.json"
WEIGHTS_FILE = "model.safetensors"
SERVED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
EMBEDDING = "sentence_embedding"  # what the library calls the embedding between its modules
INCOMPLETE = ("MultiheadAttention", "PReLU", "Softmax2d", "Threshold")  # with arguments or weights, or of images
NORM_EPS = 1e-5  # the default of torch.nn.LayerNorm

Layer: TypeAlias = Callable[[Array], Array]  # (n, width) -> (n, width)


@dataclass(frozen=True)
class Dense:
    """A linear layer, an activation and perhaps a residual connection."""

    weight: Weight
    bias: Weight | None
    activation: str  # of ACTIVATIONS
    has_residual: bool = False
    residual_weight: Weight | None = None  # None: the residual is what the layer reads

    def __call__(self, vectors: Array) -> Array:
        projected = activate(self.activation, linear(vectors, self.weight, self.bias))
        if not self.has_residual:
            return projected
        residual = vectors if self.residual_weight is None else linear(vectors, self.residual_weight)
        return projected + residual


@dataclass(frozen=True)
class LayerNormModule:
    """Scale each vector to the mean 0 and the variance 1, then each of its numbers by a weight of its own."""

    weight: Weight
    bias: Weight

    def __call__(self, vectors: Array) -> Array:
        if isinstance(vectors, np.ndarray):
            centered = vectors - vectors.mean(-1, keepdims=True)
            variance = (centered * centered).mean(-1, keepdims=True)
            return centered / np.sqrt(variance + NORM_EPS) * self.weight.array + self.bias.array
        from torch.nn import functional

        weight, bias = self.weight.beside(vectors), self.bias.beside(vectors)
        return functional.layer_norm(vectors, weight.shape, weight, bias, NORM_EPS)


def normalize(vectors: Array) -> Array:
    """Scale vectors (..., width) to length 1.

    >>> normalize(np.array([3.0, 4.0], dtype=np.float32))
    array([0.6, 0.8], dtype=float32)
    """
    if isinstance(vectors, np.ndarray):
        lengths = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
        return vectors / np.maximum(lengths, np.float32(1e-12))
    from torch.nn import functional

    return functional.normalize(vectors, p=2.0, dim=-1)


def read_layer(name: str, folder: Path, width: int, reads: str = EMBEDDING) -> tuple[Layer | None, int]:
    """Return a layer behind the pooling, or of tokens, and the width of what it returns.

    Args:
        name: class of the module.
        folder: of the module.
        width: of what it reads.
        reads: what the library calls the vectors that it must read and write.
    """
    options = read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if (options.get(key) or reads) != reads:
            raise ModelMismatch(f"{folder.name}: {key} is {options[key]}, only {reads} is computed here")
    if name == "Normalize":
        return normalize, width
    if name == "Dropout":  # does nothing outside of training
        return None, width
    if name == "LayerNorm":
        weights = _weights(folder, {"norm.weight": (width,), "norm.bias": (width,)})
        return LayerNormModule(weights["norm.weight"], weights["norm.bias"]), width
    if name != "Dense":
        raise ModelMismatch(f"{MODULES_FILE} lists {name}, which is not computed here: {advice_on([name])}")
    out = options.get("out_features")
    if type(out) is not int:
        raise ModelMismatch(f"{folder.name}/config.json has no out_features")
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, width)}
    if options.get("bias", True):
        shapes["linear.bias"] = (out,)
    residual = bool(options.get("use_residual"))
    if residual and out != width:
        shapes["residual.weight"] = (out, width)
    activation = _activation(options.get("activation_function", "torch.nn.modules.activation.Tanh"), folder.name)
    weights = _weights(folder, shapes)
    bias, projection = weights.get("linear.bias"), weights.get("residual.weight")
    return Dense(weights["linear.weight"], bias, activation, residual, projection), out


def advice_on(names: Sequence[str]) -> str:
    """Return what to do about modules that are not served."""
    others = [name for name in names if name not in SERVED]
    if not others:
        return "load the model with sentence-transformers and save it again, or serve its encoder alone"
    return (
        f"its vectors cannot be computed without {', '.join(others)}: train a Transformer with a Pooling to give the "
        f"same ones (MSELoss of sentence-transformers), or take a model of these modules: {', '.join(SERVED)}"
    )


def _activation(path: str, where: str) -> str:
    """Return the name of a function of PyTorch's own, with its default arguments, as the library makes it."""
    name = path.rpartition(".")[2]
    if not path.startswith("torch.nn.") or name not in (*ACTIVATIONS, *INCOMPLETE):
        raise ModelMismatch(f"{where}: the activation {path} is none of torch.nn, and code of a model is not run here")
    if name in INCOMPLETE:
        raise ModelMismatch(
            f"{where}: the activation {path} needs arguments, weights or images, which the folder does not have"
        )
    return name


def _weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    """Return exactly these tensors of a module's safetensors."""
    tensors = read_tensors(folder)
    stored = {name: tensor.shape for name, tensor in tensors.items()}
    if stored != dict(shapes):
        raise ModelMismatch(
            f"{folder.name}/{WEIGHTS_FILE} has {stored}, its config.json and the encoder ask for {shapes}"
        )
    return {name: Weight(tensor) for name, tensor in tensors.items()}


def read_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a module's safetensors, in fp32."""
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = (folder / "pytorch_model.bin").is_file()
        advice = "load the model with sentence-transformers 3 or newer and save it again"
        raise ModelMismatch(f"{folder.name} has {'pickled weights only' if pickled else 'no weights'}: {advice}")
    try:
        tensors = read_safetensors(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelMismatch(f"{folder.name}/{WEIGHTS_FILE} cannot be read: {error}") from error
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}  # copies: the file may change


def module_name(entry: Mapping[str, JSON], file: str = MODULES_FILE) -> str:
    """Return the class of a module of the library, whatever the version calls the place where it lies."""
    path = str(entry["type"])
    if not path.startswith("sentence_transformers."):
        raise ModelMismatch(f"{file}: {path} is code of the model's own, which is not run here")
    return path.rpartition(".")[2]


def read_object(path: Path) -> dict[str, JSON]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelMismatch(f"{path.parent.name}/{path.name} does not hold an object")
    return value


def read_json(path: Path) -> JSON:
    try:
        return protocol.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, MalformedBody) as error:
        raise ModelMismatch(f"{path.parent.name}/{path.name} cannot be read: {error}") from error
