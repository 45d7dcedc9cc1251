"""The README is true: its commands run, its examples answer what it shows, its tables name what exists."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from handler import errors, explain
from handler.errors import RequestError
from handler.predictor import Predictor
from tests.support.live import Live, activated
from tests.support.samples import MODELS, ROOT, LoadMain, ask

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK))
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """One fenced block, and the language of its fence."""

    language: str
    text: str


def blocks(section: str) -> list[Block]:
    """Return the fenced blocks under a heading."""
    body = re.split(r"(?m)^## ", README.split(f"\n## {section}\n", 1)[1])[0]
    return [Block(*found) for found in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", body)]


KEY = next(block.text for block in blocks("Ask it") if block.text.startswith("KEY="))
ASK = next(block.text for block in blocks("Every task") if block.text.startswith("ask()"))


def examples(section: str) -> list[tuple[Block, Block]]:
    """Return every example of a section with the answer that follows it."""
    found = [block for block in blocks(section) if block.language != "sh" and block.text not in (KEY, ASK)]
    return list(zip(found[::2], found[1::2], strict=True))


def shape(value: Any) -> Any:
    """Reduce an answer to what does not depend on the machine that trained: best labels and keys, no numbers."""
    if isinstance(value, float):
        return "number"
    if isinstance(value, list) and value and isinstance(value[0], dict) and "score" in value[0]:
        return [value[0]["label"], len(value)]
    if isinstance(value, list):
        return [shape(item) for item in value]
    return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else value


def kinds(value: Any) -> Any:
    """Reduce an answer to what does not depend on the model: keys and kinds of values, lists by their first element."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    return [kinds(item) for item in value[:1]] if isinstance(value, list) else type(value)


def run(example: Block, live: Live) -> str:
    """Run an example as it stands, but for the port of the server."""
    text = ((ASK if example.language == "bash" else "") + example.text).replace(
        "127.0.0.1:8080", f"127.0.0.1:{live.ports['inference_address']}"
    )
    command = ["bash", "-c", KEY + text] if example.language == "bash" else ["python3", "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=live.run_dir, env=activated()).stdout


def of(example: tuple[Block, Block]) -> str:
    """Name an example."""
    return re.sub(r"\W+", " ", example[0].text)[:40]


@pytest.mark.server
@pytest.mark.parametrize("example", examples("Ask it"), ids=of)
def test_an_example_answers_what_the_readme_shows(live: Live, example: tuple[Block, Block]) -> None:
    """Every question to the quickstart's model."""
    question, answer = example
    told = run(question, live)
    if answer.language == "json":
        assert shape(json.loads(told)) == shape(json.loads(answer.text))
    else:
        assert told == answer.text


@pytest.mark.server
@pytest.mark.parametrize("example", examples("Every task"), ids=of)
def test_an_example_of_a_task_is_answered_so(live: Live, heads: Any, example: tuple[Block, Block]) -> None:
    """Every question to a model of its kind, untrained: the keys and kinds of values that the README shows."""
    assert heads
    question, answer = example
    found = kinds(json.loads(run(question, live)))
    assert found in (kinds(json.loads(answer.text)), []), "an untrained model may find no entity"


@pytest.mark.server
def test_your_own_model_in_four_commands(live: Live, tmp_path: Path) -> None:
    """Run the four commands as they stand, on a little data, against the server that runs already."""
    with (ROOT / "examples" / "intents" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    (tmp_path / "my").mkdir()
    with (tmp_path / "my" / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows[:160])
    commands = blocks("Your own model in four commands")[0].text.splitlines()
    assert len(commands) == 4
    here = f"--config {live.config} --run-dir {live.run_dir}"
    extra = ["--epochs 1", f"--model-store {live.store}", f"--model-store {live.store} {here}", here]
    for command, options in zip(commands, extra, strict=True):
        moved = command.replace("my/train.csv", f"{tmp_path}/my/train.csv").replace("models/mine", f"{tmp_path}/mine")
        subprocess.run(["bash", "-c", f"{moved} {options}"], capture_output=True, check=True, cwd=ROOT, env=activated())
    assert live.post("/predictions/mine", "Where is it?", "text/plain").status_code == 200


def test_the_two_commands_are_there() -> None:
    """What CI and the live tests run is what the README says."""
    quickstart, test = (block.text.strip() for block in blocks("Two commands") if block.language == "bash")
    assert quickstart == "scripts/quickstart.sh"
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in (quickstart, test):
        assert os.access(ROOT / command, os.X_OK)


def test_every_link_leads_somewhere() -> None:
    """Every relative link of every Markdown file of the project."""
    files = [ROOT / "README.md", *(ROOT / "examples").rglob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for file in files:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


@pytest.mark.parametrize(
    "script", sorted(path.name for path in (ROOT / "scripts").glob("*.*") if os.access(path, os.X_OK))
)
def test_every_script_is_mentioned_and_has_help(script: str) -> None:
    """A script that nobody tells of is not there; --help says what it does."""
    assert f"scripts/{script}" in README
    done = subprocess.run(
        [ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True, env=activated()
    )
    assert len(done.stdout) > 60


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
