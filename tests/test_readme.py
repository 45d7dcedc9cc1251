"""The README is true: its commands run, its examples answer what it shows, its tables name what exists."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from handler import errors, explain
from handler.errors import RequestError
from handler.predictor import Predictor
from tests.support.live import activated
from tests.support.readme import README, blocks
from tests.support.samples import MODELS, ROOT, LoadMain, ask

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK))


def test_the_two_commands_are_there() -> None:
    """What CI and the live tests run is what the README says."""
    quickstart, test = (block.text.strip() for block in blocks("Two commands") if block.language == "bash")
    assert quickstart == "scripts/quickstart.sh"
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (quickstart, test):
        assert os.access(ROOT / command, os.X_OK)


@pytest.mark.parametrize(
    "script", sorted(path.name for path in (ROOT / "scripts").glob("*.*") if os.access(path, os.X_OK))
)
def test_every_script_is_mentioned_and_has_help(script: str) -> None:
    """A script that nobody tells of is not there; --help says what it does, and nothing on standard error."""
    assert f"scripts/{script}" in README
    done = subprocess.run(
        [ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True, env=activated()
    )
    assert len(done.stdout) > 60
    assert not done.stderr


@pytest.mark.parametrize(
    "option", sorted(set(re.findall(r"scripts/(\w+\.(?:py|sh)) ([a-z]*)[^`\n]*?(--(?!help)[a-z-]+)", README)))
)
def test_every_option_in_the_readme_exists(option: tuple[str, str, str]) -> None:
    """The first option of each command that the README shows is in the script's --help."""
    script, word, flag = option
    command = [str(ROOT / "scripts" / script), *([word] if script == "models.py" else []), "--help"]
    assert flag in subprocess.run(command, capture_output=True, text=True, check=True, env=activated()).stdout


def test_the_table_of_errors_is_complete() -> None:
    """Every error of a request, with its status."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RequestError)]
    table = README.split("### Errors")[1]
    for kind in kinds:
        if kind is not RequestError:
            row = next(line for line in table.splitlines() if f"`{kind.__name__}`" in line)
            assert str(kind.status) in row


@pytest.mark.parametrize("name", MODELS)
def test_the_tasks_are_documented(name: str, load_main: LoadMain) -> None:
    """Every task in README and docs, with its operation, its parameters and what it does with long texts."""
    task = load_main(name).task
    row = next(line for line in README.split("## Every task")[1].splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| `{task.operation}` |" in row
    documented = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = documented.split(f"## {name}, `{task.operation}`\n")[1].split("\n## ")[0]
    for parameter in task.parameters:
        assert f"`{parameter}`" in section
    assert set(explain.PARAMETERS) <= set(re.findall(r"`(\w+)`", documented.split("## Explanations")[1]))


def test_the_table_of_headers_is_complete(predictor: Predictor) -> None:
    """Every header that an answer carries."""
    (reply,) = ask(predictor, "word " * 700, id="mine")
    table = README.split("### Headers of an answer")[1]
    for header in [*reply.headers, "x-model-hash"]:
        assert f"`{header}`" in table
