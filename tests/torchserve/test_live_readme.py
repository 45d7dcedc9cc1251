"""The examples of the README answer what it shows: its commands run against live servers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Live, activated
from tests.support.readme import ASK, KEY, Block, blocks, examples, fenced
from tests.support.samples import ROOT

pytestmark = pytest.mark.server


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


@pytest.mark.parametrize("example", examples("Ask it"), ids=of)
def test_an_example_answers_what_the_readme_shows(each_server: Live, example: tuple[Block, Block]) -> None:
    """Every question to the quickstart's model."""
    question, answer = example
    printed = run(question, each_server)
    if answer.language == "json":
        assert shape(json.loads(printed)) == shape(json.loads(answer.text))
    else:
        assert printed == answer.text


@pytest.mark.parametrize("example", examples("Every task"), ids=of)
def test_an_example_of_a_task_is_answered_so(each_server: Live, heads: Any, example: tuple[Block, Block]) -> None:
    """Every question to a model of its kind, untrained: the keys and kinds of values that the README shows."""
    assert heads
    question, answer = example
    answered = kinds(json.loads(run(question, each_server)))
    assert answered in (kinds(json.loads(answer.text)), []), "an untrained model may find no entity"


def test_the_example_of_leaving_torchserve(standalone: Live) -> None:
    """OpenAI's client gets a vector of the model's width."""
    page = (ROOT / "docs" / "leaving-torchserve.md").read_text(encoding="utf-8")
    (example,) = (block for block in fenced(page) if block.language == "python")
    assert int(run(example, standalone)) == len(standalone.post("/predictions/encoder", '"a"').json())


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
