"""The house: imports point one way, only the right rooms know JSON, TorchServe and transformers, nothing prints."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.samples import ROOT

HANDLER = ROOT / "handler"
ORDER = [
    "errors",
    "config",
    "protocol",
    "sequences",
    "tokenization",
    "batching",
    "tasks",
    "engine",
    "explain",
    "archive",
    "telemetry",
    "request_state",
    "openapi",
    "predictor",
    "bert_handler",
]
MODULES = sorted(HANDLER.rglob("*.py"))


def room(path: Path) -> str:
    """Name the room of a module: the first part of its path in the package."""
    return path.relative_to(HANDLER).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield every module imported at run time, `handler.x` for a name imported from the package itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module == "handler"
            yield from (f"handler.{alias.name}" if inside else node.module for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HANDLER)))
def test_imports_point_one_way(path: Path) -> None:
    """A room imports only from rooms before it."""
    if room(path) == "__init__":
        assert not list(imports(path))
        return
    place = ORDER.index(room(path))
    for name in imports(path):
        if name.startswith("handler."):
            target = name.split(".")[1]
            assert target == room(path) or ORDER.index(target) < place, f"{room(path)} imports {target}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("json", {"protocol"}),
        ("ts", {"bert_handler"}),
        ("transformers", {"tokenization", "engine"}),
        ("yaml", {"config"}),
    ],
)
def test_a_library_stays_in_its_rooms(library: str, rooms: set[str]) -> None:
    """Only the door speaks TorchServe, only the wire touches JSON."""
    users = {room(path) for path in MODULES for name in imports(path) if name.split(".")[0] == library}
    assert users <= rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HANDLER)))
def test_nothing_prints_or_asserts(path: Path) -> None:
    """TorchServe obeys lines of a worker's output, and `python -O` drops assertions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec")


def test_the_reading_order_is_complete() -> None:
    """The package's docstring names every room, in the order of imports."""
    text = (HANDLER / "__init__.py").read_text(encoding="utf-8")
    named = [line.split()[0].rstrip("/") for line in text.splitlines() if line[:1].islower()]
    assert named == ORDER
    assert {room(path) for path in MODULES} == {*ORDER, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HANDLER)))
def test_worked_examples_are_true(path: Path) -> None:
    """Examples in docstrings run."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
