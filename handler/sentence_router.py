"""The Router of a sentence-transformers folder: which modules read queries, which read documents.

Queries of an inference-free sparse encoder are looked up in a table of weights, one for each word piece; only documents
go through the model. `router_config.json` lists the modules of each route and says which texts take it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.errors import ModelMismatch
from handler.paths import stays_inside
from handler.protocol import JSON
from handler.sentence_layers import module_name, read_object, read_tensors

ROUTER_FILE = "router_config.json"
ROUTERS = ("Router", "Asym")  # by its present name and by that of versions before 5
TABLE = "SparseStaticEmbedding"

InputType: TypeAlias = Literal["query", "document"]
INPUT_TYPES: tuple[InputType, InputType] = ("query", "document")
Module: TypeAlias = tuple[str, str]  # its class, and its folder in that of the model


@dataclass(frozen=True)
class Router:
    """The modules of each route, and the routes of texts."""

    routes: Mapping[str, tuple[Module, ...]]  # by name
    by_input: Mapping[InputType | None, str]  # the name of a text's route; None: a request does not say what it is

    def inputs_of(self, modules: Sequence[Module]) -> frozenset[InputType | None]:
        """Return what texts these modules read."""
        return frozenset(kind for kind, name in self.by_input.items() if self.routes[name] == tuple(modules))


@dataclass(frozen=True, eq=False)
class WeightTable:
    """The weight of each word piece, for texts that no model reads."""

    path: str  # of its module in the folder of the model
    weights: NDArray[np.float32]  # (vocabulary,)

    def embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the weights (vocabulary,) of a text: those of its tokens, however often they stand in it."""
        present = np.unique(np.asarray(ids, dtype=np.intp))
        embedding = np.zeros_like(self.weights)
        embedding[present] = self.weights[present]
        return embedding


def read_router(folder: Path) -> Router:
    """Read router_config.json; raises ModelMismatch where texts have no route."""
    config = read_object(folder / ROUTER_FILE)
    types, structure, parameters = (config.get(key, {}) for key in ("types", "structure", "parameters"))
    names = structure.values() if isinstance(structure, dict) else ()
    if not (
        isinstance(types, dict)
        and isinstance(parameters, dict)
        and names
        and all(isinstance(paths, list) and paths and all(path in types for path in paths) for paths in names)
    ):
        raise ModelMismatch(f"{ROUTER_FILE} must hold types of modules by their folders, and a structure of routes")
    if outside := next((path for path in types if not stays_inside(path)), None):
        raise ModelMismatch(f"{ROUTER_FILE}: the path {str(outside)[:100]!r} leaves the model's folder")
    routes = {
        name: tuple((module_name({"type": types[path]}, ROUTER_FILE), path) for path in paths)
        for name, paths in structure.items()
    }
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(routes))
    mappings = _mappings(parameters.get("route_mappings") or {})
    if unknown := next((name for name in (default, *mappings.values()) if name not in (None, *routes)), None):
        raise ModelMismatch(f"{ROUTER_FILE} names the route {unknown}, it has {', '.join(routes)}")
    kinds: tuple[InputType | None, ...] = (None, *INPUT_TYPES)
    return Router(routes, {kind: _route_of(kind, routes, mappings, default) for kind in kinds})


def read_table(folder: Path, path: str, vocab_size: int) -> WeightTable:
    """Read the module of a table; raises ModelMismatch where it is none that belongs to a model's vocabulary."""
    options = read_object(folder / path / "config.json") if (folder / path / "config.json").is_file() else {}
    file = options.get("path")
    if isinstance(file, str) and file.endswith(".json"):
        raise ModelMismatch(
            f"{path}/config.json: path is {file}, weights outside of the folder: load the model with "
            "sentence-transformers and save it again"
        )
    if unknown := sorted(options.keys() - {"frozen", "path"}):
        raise ModelMismatch(f"{path}/config.json: {unknown[0]} is {options[unknown[0]]}, which is not computed here")
    tensors = read_tensors(folder / path)
    if list(tensors) != ["weight"] or tensors["weight"].shape != (vocab_size,):
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        raise ModelMismatch(f"{path} has the weights {shapes}, the model's vocabulary asks for ({vocab_size},)")
    return WeightTable(path, tensors["weight"])


def _route_of(
    kind: InputType | None, routes: Mapping[str, Any], mappings: Mapping[tuple[Any, Any], str], default: str | None
) -> str:
    """Return the route of a text, by the order of precedence of the library."""
    for key in ((kind, "text"), (kind, None), (None, "text"), (None, None)):
        if key in mappings:
            return mappings[key]
    for name in (str(kind), "text"):
        if name in routes:
            return name
    if kind is not None or default is None:
        what = f"a {kind}" if kind is not None else "a text of which a request does not say what it is (default_route)"
        raise ModelMismatch(f"{ROUTER_FILE} has the routes {', '.join(routes)}, and none for {what}")
    return default


def _mappings(written: JSON) -> dict[tuple[Any, Any], str]:
    """Return the routes by kind and modality, which are written as tuples of Python."""
    if not isinstance(written, dict):
        raise ModelMismatch(f"{ROUTER_FILE}: route_mappings must be an object")
    mappings = {}
    for key, name in written.items():
        try:
            kind, modality = ast.literal_eval(key)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ModelMismatch(f"{ROUTER_FILE}: route_mappings must be by pairs of a task and a modality") from error
        mappings[kind, modality] = name
    return mappings
