"""The structure of the repository, as docs/architecture.md states it: what may import what, and what is a command."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import importlib.metadata
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.fake_triton import imported
from tests.support.samples import ROOT

HANDLER = ROOT / "handler"
SCRIPTS = ROOT / "scripts"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HANDLER_MODULES = sorted(HANDLER.rglob("*.py"))
SERVER_MODULES = sorted((ROOT / "server").rglob("*.py"))
PRODUCT_MODULES = [*HANDLER_MODULES, *SERVER_MODULES, *sorted(SCRIPTS.rglob("*.py"))]
COMMANDS = sorted(SCRIPTS.glob("*.py"))
TEST_MODULES = sorted((ROOT / "tests").rglob("*.py"))


def table(header: str) -> list[list[str]]:
    """Return the cells of the rows of the table of docs/architecture.md that begins with a header."""
    lines = DOCUMENT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |")) + 2
    rows: list[list[str]] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


ALLOWED = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[2])) for row in table("package")}
OWNERS = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in table("library")}


def reading_order(package: str) -> list[str]:
    """Return the modules that the docstring of a package lists."""
    lines = (ROOT / package / "__init__.py").read_text(encoding="utf-8").splitlines()
    return [line.split()[0].rstrip("/") for line in lines if re.match(r"[a-z_]+/?  ", line)]


READING_ORDER = {package: reading_order(package) for package in ("handler", "server")}


def module_of(path: Path) -> str:
    """Return the name of the top-level module of its package that a file belongs to."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def package_of(path: Path) -> str:
    """Return the package of the table that a file belongs to, or "command"."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "scripts":
        return "command" if len(parts) == 2 else "/".join(parts[:2])
    return parts[0]


@functools.cache
def imports(path: Path) -> list[str]:
    """Return every name imported at run time, in full: `handler.x.y` for `from handler.x import y`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def file_of(name: str) -> Path | None:
    """Return the file of this repository that an imported name is, or lies in; None for a library's."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
    return None


def relative(path: Path) -> str:
    """Return the path of a file in the repository."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PRODUCT_MODULES, ids=relative)
def test_a_package_imports_only_what_the_table_allows(path: Path) -> None:
    """Packages import one way; nothing imports a command or a test."""
    package = package_of(path)
    for name in imports(path):
        target = file_of(name)
        if target is None:
            continue
        imported = package_of(target)
        assert imported != "tests", f"{relative(path)} imports {name}"
        if imported != package:
            assert imported != "command", f"{relative(path)} imports {name}, a command"
            assert package == "command" or imported in ALLOWED[package], f"{relative(path)} imports {name}"


def test_the_table_of_packages_is_complete() -> None:
    """Each package has a row, and rows name only packages below them."""
    packages = {package_of(path) for path in PRODUCT_MODULES} - {"command"}
    assert packages == set(ALLOWED)
    below: set[str] = set()
    for package, allowed in ALLOWED.items():
        assert allowed <= below
        below.add(package)


@pytest.mark.parametrize("path", [*HANDLER_MODULES, *SERVER_MODULES], ids=relative)
def test_modules_import_in_reading_order(path: Path) -> None:
    """A module of the handler or the server imports only modules that its reading order lists before it."""
    package = package_of(path)
    if module_of(path) == "__init__":
        assert not imports(path)
        return
    order = READING_ORDER[package]
    position = order.index(module_of(path))
    for name in imports(path):
        if name.startswith(f"{package}."):
            target = name.split(".")[1]
            assert target == module_of(path) or order.index(target) < position, f"{path.name} imports {name}"


def test_the_reading_order_is_complete() -> None:
    """The docstring of each package names every module."""
    for package, modules in (("handler", HANDLER_MODULES), ("server", SERVER_MODULES)):
        assert {*READING_ORDER[package], "__init__"} == {module_of(path) for path in modules}


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_stays_with_its_owners(library: str) -> None:
    """Only `protocol` reads JSON, only `bert_handler` knows TorchServe."""
    owners = {owner.removeprefix("handler/").removesuffix(".py") for owner in OWNERS[library]}
    users = {module_of(path) for path in HANDLER_MODULES for name in imports(path) if name.split(".")[0] == library}
    assert users <= owners


@pytest.mark.parametrize("path", [*HANDLER_MODULES, *SERVER_MODULES], ids=relative)
def test_serving_code_never_prints_or_asserts(path: Path) -> None:
    """TorchServe obeys lines of a worker's output, and `python -O` drops assertions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec")


@pytest.mark.parametrize("path", HANDLER_MODULES, ids=relative)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    """Examples in docstrings run."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    with imported(name) if "triton" in imports(path) else nullcontext(importlib.import_module(name)) as module:
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", COMMANDS, ids=relative)
def test_a_command_runs_as_a_program(path: Path) -> None:
    """Every module directly in scripts/ is executable and has a main block; tests/test_readme.py runs its --help."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env python3")
    assert path.stat().st_mode & 0o111
    assert 'if __name__ == "__main__":' in text


def test_scripts_shadow_no_module() -> None:
    """The folder of a command is first on its path: a name in it must not hide a library's."""
    names = {path.stem for path in SCRIPTS.iterdir() if path.suffix in (".py", "") and path.name[0] not in "._"}
    installed = set(importlib.metadata.packages_distributions())
    assert names.isdisjoint(sys.stdlib_module_names)
    assert names.isdisjoint(installed)


def test_class_names_have_one_meaning() -> None:
    """No two modules of the product define a public class of one name."""
    seen: dict[str, Path] = {}
    for path in PRODUCT_MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in seen, f"{node.name} in {relative(path)} and {relative(seen[node.name])}"
                seen[node.name] = path


@pytest.mark.parametrize("path", TEST_MODULES, ids=relative)
def test_no_test_module_imports_another(path: Path) -> None:
    """What tests share lies in tests/support."""
    for name in imports(path):
        target = file_of(name) if name.startswith("tests.") else None
        assert target is None or not target.name.startswith("test_"), f"{relative(path)} imports {name}"
