"""Which files of a model's folder or repository are read: weights, config, tokenizer, sentence-transformers modules."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from handler import protocol
from handler.errors import MalformedBody
from handler.paths import stays_inside
from scripts.cli.console import ScriptError

# Everything a tokenizer or a model is saved as, and nothing else: no pickles, no checkpoints of a trainer.
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",  # merges of BERTweet and PhoBERT
    "*.model",
    "training.json",
)
SETFIT_CONFIG, SETFIT_HEAD = "config_setfit.json", "model_head.pkl"
ROUTER, STANFORD_METADATA = "router_config.json", "artifact.metadata"
MODULE_FILES = (
    "modules.json",
    ROUTER,
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    SETFIT_CONFIG,
    STANFORD_METADATA,
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
README = "README.md"
OTHER_WEIGHTS = {  # patterns of files that are not read -> what to do
    "*.ckpt.index": "load it with from_tf=True of transformers 4, and save it with save_pretrained",
    "*.pb": "load it with TensorFlow as it was saved, and save the model of transformers with save_pretrained",
    "*.distcp": "merge the parts with `accelerate merge-weights`",
    "*.gguf": "give the model that it was quantized from",
    "*.onnx": "give the model that it was exported from",
    "openvino_*.bin": "give the model that it was exported from",
    "*.mlpackage/*": "give the model that it was exported from",
    "*.ot": "give the model that it was exported from",
    "*.h5": "load it with from_tf=True of transformers 4, and save it with save_pretrained",
    "*.msgpack": "load it with from_flax=True of transformers 4, and save it with save_pretrained",
    "model.*.safetensors": f"rename the variant to {WEIGHTS}, or save the model without `variant`",
    "*.safetensors": f"rename the weights of a whole model to {WEIGHTS}",
    "*.ckpt": "load the model with the program that trained it, and save it with save_pretrained",
    "*.pt": "load the model with the program that trained it, and save it with save_pretrained",
    "*.pth": "load the model with the program that trained it, and save it with save_pretrained",
    "*.bin": "load the model with the program that trained it, and save it with save_pretrained",
}
LIBRARIES = {  # a file that only these libraries write -> the library
    "gliner_config.json": "GLiNER",
    "config.cfg": "spaCy",
    "best-model.pt": "flair",
    "final-model.pt": "flair",
}


def settings_in(names: Iterable[str]) -> list[str]:
    """Return the files of a repository's root that are read before its weights: config, tokenizer, modules, indices.

    >>> settings_in(["config.json", "model.safetensors", "onnx/config.json", "spiece.model", "train.py"])
    ['config.json', 'spiece.model']
    """
    patterns = [pattern for pattern in MODEL_FILES if pattern != "*.safetensors"]
    patterns += [*MODULE_FILES, ADAPTER_CONFIG, PICKLE + INDEX, README]
    return [name for name in names if "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)]


def weights_in(names: Iterable[str]) -> str | None:
    """Return the file of a folder that its weights are read from, or the index of the files; None if there is none.

    >>> weights_in(["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"])
    'model.safetensors'
    """
    candidates = (WEIGHTS, WEIGHTS + INDEX, ADAPTER_WEIGHTS)
    return next((name for name in candidates if name in names), None)


def pickle_in(names: Iterable[str]) -> str | None:
    """Return the file of a folder that holds pickled weights, or the index of such files; None if there is none."""
    return next((name for name in (PICKLE, PICKLE + INDEX, PICKLED_ADAPTER) if name in names), None)


def other_weights_in(names: Iterable[str]) -> list[str]:
    """Return the files of a folder that hold weights in formats that are not read here."""
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in OTHER_WEIGHTS))


def other_weights_advice(name: str) -> str:
    """Return what to do with a file of weights that is not read here.

    >>> other_weights_advice("onnx/model.onnx")
    'give the model that it was exported from'
    """
    return next(advice for pattern, advice in OTHER_WEIGHTS.items() if fnmatchcase(name, pattern))


def require_transformers(name: str, files: Iterable[str]) -> None:
    """Raise ScriptError for the files of a model of another library, whose layers are not computed here."""
    if library := next((LIBRARIES[file] for file in files if file in LIBRARIES), None):
        raise ScriptError(
            f"{name}: a model of {library}, whose layers are not computed here: train a model on the same data with "
            "scripts/train.py"
        )


def pickle_refusal(name: str, weights: str) -> str:
    """Return why pickled weights are refused, and how they are converted."""
    return (
        f"{name}: its weights are pickled ({weights}), and a pickle can run code when it is read: the same command "
        "with --convert-pickle converts them to safetensors, reading tensors only"
    )


def shards(index: Path) -> list[str]:
    """Return the names of the files of an index of weights; raises ScriptError where it is none."""
    value = _read_json(index)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) and weight_map else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ScriptError(f"{index.name} is no index of weights: it must have a weight_map from tensors to files")
    return names


def module_folders(folder: Path) -> list[str]:
    """Return the folders that modules.json and a Router name; its refusals are those of the reader of the handler."""
    return [path for path, _ in _modules(folder) if path]


def transformer_folder(folder: Path) -> str | None:
    """Return the folder of the one transformer of a sentence-transformers folder, where it is not the folder itself."""
    paths = {path for path, kind in _modules(folder) if kind in ("Transformer", "MLMTransformer")}
    return next(iter(paths)) or None if len(paths) == 1 else None


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return the folder and the class of each module."""
    value = _read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    modules = [(entry.get("path", ""), str(entry.get("type"))) for entry in entries]
    if any(kind.endswith("Router") for _, kind in modules) and (folder / ROUTER).is_file():
        types = read_object(folder / ROUTER).get("types")
        modules += types.items() if isinstance(types, dict) else []
    return [(path, str(kind).rpartition(".")[2]) for path, kind in modules if stays_inside(path)]


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises ScriptError where it has none."""
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ScriptError(f"{path.name} does not hold an object")
    return value


def _read_json(path: Path) -> Any:
    try:
        return protocol.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, MalformedBody) as error:
        raise ScriptError(f"{path.name} cannot be read: {error}") from None
