"""The files of a model's weights: which they are, the names of their tensors, and what a file is that is none."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from handler.errors import ModelMismatch, RequestError
from handler.protocol import loads

INDEX = "model.safetensors.index.json"
WRAPPERS = {  # how every tensor of a model begins that is saved within another one
    r"module\.": "DataParallel",
    r"_orig_mod\.": "torch.compile",
    r"model\.(\w+\.)?(embeddings|encoder|transformer|pooler|classifier|qa_outputs|lm_head|cls)\.": "a Lightning module",
}
HEADS = re.compile(  # how tensors begin that are of no encoder; `pooler` and `decoder` are of some
    r"(classifier|pre_classifier|qa_\w+|cls|lm_head|predictions|generator_(predictions|lm_head)|vocab_\w+|head|score|"
    r"sop_classifier|discriminator_predictions|pred_layer|sequence_summary)\."
)
FINE_TUNED = re.compile(r"(classifier|pre_classifier|qa_\w+)\.")  # heads that no pretraining leaves
LFS_POINTER = b"version https://git-lfs"


def is_pointer(file: Path) -> bool:
    """Tell whether a file is what Git LFS leaves in the place of a large one; of that only the begin is read."""
    with file.open("rb") as opened:
        return opened.read(len(LFS_POINTER)) == LFS_POINTER


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in floating point that transformers reads: one, or those that an index names.

    Raises:
        ModelMismatch: a file that the index names is not there, or the index cannot be read.
    """
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else []
    try:
        shards: dict[str, str] = loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(shards.values()))
        files = [folder / name for name in names]
    except (RequestError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMismatch(f"{INDEX} has no weight_map that can be read: copy it again") from error
    if outside := next((name for name in names if Path(name).name != name), None):
        raise ModelMismatch(f"{INDEX} names {outside[:100]!r}, which is no file beside it: copy it again")
    for file in files:
        if not file.is_file():
            raise ModelMismatch(f"{INDEX} names {file.name}, which is not there: copy it from where the model comes")
    return files


def tensor_names(folder: Path) -> set[str]:
    """Return the names of a model's tensors, those of int8 where it has no others.

    Raises:
        ModelMismatch: a file cannot be read, tensors are named as within a wrapper, or hold whole numbers.
    """
    names: set[str] = set()
    floats = weight_files(folder)
    for path in floats or sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                names.update(name.removeprefix("rest.") for name in file.keys())  # noqa: SIM118 - rest: of int8
                if path in floats:
                    _refuse_whole_numbers(file)
        except (OSError, SafetensorError) as error:
            raise ModelMismatch(weights_problem(path, error)) from error
    wrapper = next((first for first in WRAPPERS if names and all(re.match(first, name) for name in names)), None)
    if wrapper is not None:
        raise ModelMismatch(
            f"the tensors are named as within {WRAPPERS[wrapper]} ({min(names)}): save the model inside it with "
            "save_pretrained"
        )
    return names


def _refuse_whole_numbers(file: Any) -> None:
    """Raise ModelMismatch for a weight in integers, which is of a quantized model and would be read as it stands."""
    for name in file.keys():  # noqa: SIM118 - no mapping
        kind = file.get_slice(name).get_dtype()
        if name.endswith((".weight", ".bias")) and not kind.startswith(("F", "BF")):
            raise ModelMismatch(f"{name} is in {kind}, as of a quantized model: give its weights in floating point")


def holds_a_head(names: Collection[str]) -> bool:
    """Return whether the tensors of a checkpoint are more than those of an encoder.

    A model with a head names the tensors of its encoder with a prefix (`bert.embeddings...`), an encoder that is saved
    alone does not (`embeddings...`), whatever `architectures` in its config.json says. Tools that write tensors one by
    one leave out the prefix of a model with a head too, which transformers adds again.

    >>> holds_a_head(["embeddings.word_embeddings.weight", "pooler.dense.bias"])
    False
    >>> holds_a_head(["bert.embeddings.word_embeddings.weight", "classifier.bias"])
    True
    >>> holds_a_head(["embeddings.word_embeddings.weight", "classifier.bias"])
    True
    """
    if any(map(HEADS.match, names)):
        return True
    embeddings = [name for name in names if "embeddings." in name]
    prefixes = {name.partition(".")[0] for name in embeddings if not name.startswith("embeddings.")}
    if len(prefixes) != 1 or any(name.startswith("embeddings.") for name in embeddings):
        return not any(name.startswith("embeddings.") for name in embeddings)
    return any(name.partition(".")[0] not in prefixes for name in names)


def fine_tuned_head(names: Collection[str]) -> str | None:
    """Return a tensor of a head that somebody trained for a task of theirs; None where there is none.

    >>> fine_tuned_head(["bert.embeddings.word_embeddings.weight", "cls.predictions.bias", "classifier.weight"])
    'classifier.weight'
    """
    return min(filter(FINE_TUNED.match, names), default=None)


def weights_problem(path: Path, error: Exception) -> str:
    """Return why a file of weights cannot be read; `error` is that of its reader."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(LFS_POINTER):
        return f"{path.name} is a pointer of Git LFS: run `git lfs pull` where the model comes from"
    return f"{path.name} is damaged, or was not copied to its end ({str(error).splitlines()[0]}): copy it again"
