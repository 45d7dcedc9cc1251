"""The model that is evaluated: a version on a server, or a folder or an archive in this process."""

from __future__ import annotations

import argparse
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.answers import is_error
from scripts.client.backends import ServerBackend, load
from scripts.client.http import Inference, Management
from scripts.client.server import Server, ServerError
from scripts.client.settings import effective

MASKS = ("[MASK]", "<mask>")  # of the tokenizers of BERT and of RoBERTa
WEIGHTS = (".safetensors", ".bin", ".mar")


class EvaluatedModel(ABC):
    """A model that answers questions, explains answers and says what it is."""

    name: str
    version: str
    description: dict[str, JSON]
    concurrency: int
    n_bytes: int | None  # of the archive or folder, where this machine has it

    @abstractmethod
    def answer(self, items: Sequence[JSON], parameters: Mapping[str, JSON]) -> list[JSON]:
        """Answer items in one request; an item that cannot be answered gets an error."""

    @abstractmethod
    def explain(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        """Explain the answer to an item."""

    @property
    def identity(self) -> str:
        """A hash of what decides the answers: name, version, the model's files, precision, task, limits."""
        content = [self.name, self.version, self.description]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def title(self) -> str:
        """Name and version, as a person reads them."""
        return f"{self.name} {self.version}".strip()

    def parameters_for(self, served_as: str) -> dict[str, JSON]:
        """Return the parameters that select a task of the handler; none for the model's main one."""
        if self.description["task"] == served_as:
            return {}
        for operation, task in self.description["operations"].items():
            if task == served_as:
                return {"operation": operation}
        served = ", ".join(sorted(set(self.description["operations"].values())))
        raise ScriptError(f"{self.title} does not serve {served_as}; it serves {served}: choose another --problem")

    def mask(self) -> str:
        """Return the mask token."""
        parameters = self.parameters_for("fill-mask")
        for mask in MASKS:
            if not is_error(self.answer([f"It is {mask}."], {**parameters, "top_k": 1})[0]):
                return mask
        raise ScriptError(f"{self.title} knows none of the masks {', '.join(MASKS)}")


class LocalModel(EvaluatedModel):
    """A model folder or an archive, loaded into this process."""

    concurrency = 1

    def __init__(self, path: Path, stack: ExitStack) -> None:
        from handler.description import describe

        self.predictor = load(path, stack)
        described = describe(self.predictor)
        self.name, self.version = described["name"] or path.stem, described["version"] or ""
        if path.is_dir():
            self.name = path.resolve().name
        self.description = stable(described)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        self.n_bytes = sum(file.stat().st_size for file in files)
        if not self.description.get("model_hash"):  # a plain folder
            self.description["model_hash"] = folder_hash(path)

    def answer(self, items: Sequence[JSON], parameters: Mapping[str, JSON]) -> list[JSON]:
        return self.predictor.answer_items(items, {**parameters, "on_error": "report"})

    def explain(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        return self.predictor.answer_items([item], dict(parameters), explain=True)[0]


class RemoteModel(EvaluatedModel):
    """One version of a model on a server."""

    def __init__(self, arguments: argparse.Namespace, name: str, version: str | None, stack: ExitStack) -> None:
        server = Server.of(arguments)
        management = Management(server)
        self.name, self.version = name, version or management.default_version(name)
        described = management.describe(name, self.version)
        if "task" not in described:
            raise ScriptError(f"{self.title} does not describe what it serves: it was not packed by scripts/package.py")
        self.description = stable(described)
        self.concurrency = arguments.concurrency
        self.inference = Inference(server)
        self.timeout = arguments.timeout
        self.n_bytes = archive_bytes(arguments, management.model(name, self.version).archive)
        options = {"model": name, "version": self.version, "parameters": {}}
        self.backend = ServerBackend(argparse.Namespace(**{**vars(arguments), **options}))
        stack.callback(self.backend.stopping.set)

    def answer(self, items: Sequence[JSON], parameters: Mapping[str, JSON]) -> list[JSON]:
        return self.backend.answer(list(items), parameters)

    def explain(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        body = {"inputs": item, "parameters": dict(parameters)}
        return self.inference.explain(self.name, body, version=self.version, timeout=self.timeout)


def stable(described: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return a description without the OpenAPI document and without what changes from start to start."""
    return {key: value for key, value in described.items() if key not in ("openapi", "threads")}


def folder_hash(folder: Path) -> str:
    """Return a hash over every file of a model folder that decides answers."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".yaml", *WEIGHTS):
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                for chunk in iter(lambda: opened.read(1 << 20), b""):
                    digest.update(chunk)
    return digest.hexdigest()


def archive_bytes(arguments: argparse.Namespace, archive: str) -> int | None:
    """Return the size of an archive in the store of the server's settings; None where this machine does not have it."""
    store = effective(arguments.config).get("model_store")
    file = arguments.run_dir / store.value / archive if store else None
    return file.stat().st_size if file is not None and file.is_file() else None


def open_model(arguments: argparse.Namespace, stack: ExitStack) -> EvaluatedModel:
    """Return the model that the arguments name."""
    if arguments.local:
        return LocalModel(arguments.local, stack)
    return RemoteModel(arguments, arguments.model, arguments.version, stack)


def open_other(arguments: argparse.Namespace, stack: ExitStack) -> EvaluatedModel:
    """Return the model of --against: a path, a version of the same model, or NAME/VERSION."""
    word: str = arguments.against
    if Path(word).exists():
        return LocalModel(Path(word), stack)
    if arguments.local:
        raise ScriptError(f"no model at {word}: with --local, --against names a folder or an archive")
    name, _, version = word.rpartition("/")
    try:
        return RemoteModel(arguments, name or arguments.model, version, stack)
    except ServerError as error:
        raise ScriptError(f"--against {word}: neither a path, nor a version on the server: {error}") from error


def described(model: EvaluatedModel) -> dict[str, Any]:
    """Return what a report says about a model."""
    keys = ("task", "problem_type", "architecture", "precision", "device", "model_hash")
    return {"name": model.name, "version": model.version} | {key: model.description.get(key) for key in keys}
