"""Convert pickled weights to safetensors, reading tensors only: `torch.load(weights_only=True)` runs no code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from handler import protocol
from handler.weight_files import is_pointer
from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import ADAPTER_WEIGHTS, INDEX, PICKLED_ADAPTER, WEIGHTS, shards


def convert(source: Path, weights: str, target: Path) -> list[str]:
    """Convert the pickled weights of a folder into another folder; return the pickles that were read.

    Args:
        source: folder of the pickle.
        weights: its name, or that of the index of several.
        target: folder that gets model.safetensors, or its parts and their index.

    Raises:
        ScriptError: a pickle that holds anything else than tensors, or that cannot be read.
    """
    if weights == PICKLED_ADAPTER:
        convert_file(source / weights, target / ADAPTER_WEIGHTS)
        return [weights]
    if not weights.endswith(INDEX):
        convert_file(source / weights, target / WEIGHTS)
        return [weights]
    names = shards(source / weights)
    weight_map: dict[str, str] = {}
    n_bytes = 0
    for number, name in enumerate(names, start=1):
        if not (source / name).is_file():
            raise ScriptError(f"{source.name}: {weights} names {name}, which is missing")
        shard = f"model-{number:05}-of-{len(names):05}.safetensors"
        tensors = convert_file(source / name, target / shard)
        weight_map.update(dict.fromkeys(tensors, shard))
        n_bytes += sum(tensor.nbytes for tensor in tensors.values())
    listed = protocol.loads((source / weights).read_text(encoding="utf-8"))["weight_map"]
    if missing := sorted(set(listed) - set(weight_map)):
        raise ScriptError(f"{source.name}: {weights} names {missing[0]}, which no pickle of it has")
    index = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (target / (WEIGHTS + INDEX)).write_bytes(protocol.serialize_value(index))
    return [weights, *names]


def convert_file(file: Path, target: Path) -> Mapping[str, Tensor]:
    """Convert one pickle; tensors that share memory, as tied ones do, are written for each of their names."""
    tensors = read_tensors(file)
    # PyTorch's own copies: safetensors refuses tensors that share memory or are views with gaps.
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(copies, target, metadata={"format": "pt"})
    say(f"converted {file.name} to {target.name}: {len(copies)} tensors")
    return copies


def read_tensors(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a pickle by name.

    Raises:
        ScriptError: it holds anything else, is cut short, or is no pickle of PyTorch.
    """
    if is_pointer(file):
        raise ScriptError(f"{file.name} is a pointer of Git LFS: run `git lfs pull` where the model comes from")
    try:
        with warnings.catch_warnings():  # of the protocol of the pickle
            warnings.simplefilter("ignore")
            value: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ScriptError(
            f"{file.name} holds more than tensors, or is cut short, and is not read ({_reason(error)}): load it where "
            "it comes from and save its state_dict alone with save_pretrained"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ScriptError(f"{file.name} cannot be read, perhaps cut short ({_reason(error)})") from None
    if isinstance(value, Mapping) and isinstance(value.get("state_dict"), Mapping):  # as PyTorch Lightning saves it
        raise ScriptError(
            f"{file.name} is the checkpoint of a trainer, not a model: save the model with save_pretrained"
        )
    if not isinstance(value, Mapping) or not value:
        raise ScriptError(f"{file.name} holds {type(value).__name__}, not tensors by name")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ScriptError(f"{file.name}: {str(name)[:80]} is {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ScriptError(f"{file.name}: {name} is sparse or quantized, which is not converted")
    return value


def _reason(error: Exception) -> str:
    """Return what an error says, in a few words: PyTorch's run to paragraphs."""
    message = " ".join(str(error).split())
    if refused := re.search(r"GLOBAL:? ([\w.]+)", message):
        return f"it would call {refused.group(1)}"
    detail = message.partition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return (detail or message)[:120] or type(error).__name__
