"""The layers behind the pooling of a sentence-transformers folder, and how the files of its modules are read.

Source: the file formats of sentence-transformers 2 to 6, as the library saves and loads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from handler import protocol
from handler.errors import MalformedBody, ModelMismatch
from handler.protocol import JSON

MODULES_FILE = "modules.json"
WEIGHTS_FILE = "model.safetensors"
SERVED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
EMBEDDING = "sentence_embedding"  # what the library calls the embedding between its modules


class Dense(nn.Module):
    """A linear layer, an activation and perhaps a residual connection."""

    weight: Tensor
    bias: Tensor | None
    residual_weight: Tensor | None

    def __init__(self, weights: Mapping[str, Tensor], activation: nn.Module, *, residual: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weights["linear.weight"].float())
        self.register_buffer("bias", weights.get("linear.bias"))
        self.register_buffer("residual_weight", weights.get("residual.weight"))
        self.activation = activation
        self.has_residual = residual

    def forward(self, vectors: Tensor) -> Tensor:
        projected: Tensor = self.activation(nn.functional.linear(vectors, self.weight, self.bias))
        if not self.has_residual:
            return projected
        residual = vectors if self.residual_weight is None else nn.functional.linear(vectors, self.residual_weight)
        return projected + residual


def normalize(vectors: Tensor) -> Tensor:
    """Scale vectors (n, width) to length 1."""
    return nn.functional.normalize(vectors, p=2.0, dim=-1)


def read_layer(
    name: str, folder: Path, width: int, reads: str = EMBEDDING
) -> tuple[Callable[[Tensor], Tensor] | None, int]:
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
        norm = nn.LayerNorm(width)
        norm.load_state_dict({"weight": weights["norm.weight"], "bias": weights["norm.bias"]})
        return norm.requires_grad_(False), width
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
    return Dense(_weights(folder, shapes), activation, residual=residual), out


def advice_on(names: Sequence[str]) -> str:
    """Return what to do about modules that are not served."""
    others = [name for name in names if name not in SERVED]
    if not others:
        return "load the model with sentence-transformers and save it again, or serve its encoder alone"
    return (
        f"its vectors cannot be computed without {', '.join(others)}: train a Transformer with a Pooling to give the "
        f"same ones (MSELoss of sentence-transformers), or take a model of these modules: {', '.join(SERVED)}"
    )


def _activation(path: str, where: str) -> nn.Module:
    """Return a function of PyTorch's own, with its default arguments, as the library makes it."""
    name = path.rpartition(".")[2]
    kind = getattr(nn, name, None)
    if (
        not path.startswith("torch.nn.")
        or not isinstance(kind, type)
        or kind.__module__ not in ("torch.nn.modules.activation", "torch.nn.modules.linear")
    ):
        raise ModelMismatch(f"{where}: the activation {path} is none of torch.nn, and code of a model is not run here")
    try:
        activation: nn.Module = kind()
    except TypeError as error:
        raise ModelMismatch(
            f"{where}: the activation {path} needs arguments, which the folder does not have"
        ) from error
    return activation


def _weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return exactly these tensors of a module's safetensors."""
    tensors = read_tensors(folder)
    stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if stored != dict(shapes):
        raise ModelMismatch(
            f"{folder.name}/{WEIGHTS_FILE} has {stored}, its config.json and the encoder ask for {shapes}"
        )
    return tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a module's safetensors, in fp32."""
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = (folder / "pytorch_model.bin").is_file()
        advice = "load the model with sentence-transformers 3 or newer and save it again"
        raise ModelMismatch(f"{folder.name} has {'pickled weights only' if pickled else 'no weights'}: {advice}")
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelMismatch(f"{folder.name}/{WEIGHTS_FILE} cannot be read: {error}") from error
    return {name: tensor.float() for name, tensor in tensors.items()}


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
