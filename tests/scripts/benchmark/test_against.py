"""scripts/bench.py --against: two builds measured in turn, in processes of their own."""

from __future__ import annotations

import doctest
import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from scripts import bench
from scripts.benchmark import against, machine, suites, tables, training
from scripts.benchmark.models import benchmark_model
from scripts.benchmark.texts import Mix
from scripts.cli.console import ScriptError
from tests.support.samples import ROOT


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of what this build packs and serves with as another checkout; few rounds are enough here."""
    monkeypatch.setattr(against, "MIN_ROUNDS", 2)
    monkeypatch.setattr(against, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(against, "START_ROUNDS", 1)
    folder = tmp_path / "other"
    for name in ("handler", "scripts", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "model-config.yaml", folder)
    return folder


@pytest.mark.slow
def test_two_builds_of_a_tiny_model(tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure of both builds is in the results, and the report has its section."""
    command = ["bench.py", "--against", str(other), "--threads", "1", "--models", "random:1x64", "--mixes", "short"]
    command += ["--only", "engine"]
    command += ["--precisions", "fp32", "--seconds", "0", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(machine, "version", lambda _: None)  # no figures, whatever is installed
    threads = torch.get_num_threads()
    try:
        assert bench.main() == 0
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (row,) = results["against"]
    assert results["about"]["skipped"] == []
    assert [(entry["mix"], entry["measure"]) for entry in row["speed"]] == [("short", "engine"), ("short", "answers")]
    for entry in [*row["speed"], row["start"]]:
        assert entry["ratio"] > 0
        assert all(seconds > 0 for build in ("this", "other") for seconds in entry[build]["seconds"])
    assert row["kernels"]["this"] == row["kernels"]["other"]
    assert all(row["start"]["memory"][build]["anonymous_mb"] > 50 for build in ("this", "other"))
    assert "## Against another build" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_a_build_that_does_not_load(tmp_path: Path, other: Path) -> None:
    """The reason of its process is reported, and it is that build's handler which runs."""
    (other / "handler" / "bert_handler.py").write_text("raise SystemExit('this build is broken')")
    with ExitStack() as stack:
        model = benchmark_model("random:1x64", stack)
        build = against.checkout(other)
        mix = Mix("short", ("a text",), (4,))
        with pytest.raises(ScriptError, match=r"commit unknown in .*other ended: .*this build is broken"):
            against.BuildProcess(build, against.WORKER, against.job_of(model.model_folder, "fp32", 1, [mix]))
    with pytest.raises(ScriptError, match="no checkout of this repository"):
        against.checkout(tmp_path / "nowhere")


def test_training_alternates_and_leaves_the_first_epoch_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program trains in both builds: here one that says how it was called, and takes longer in the other."""
    model, program = tmp_path / "model", tmp_path / "worker.py"
    model.mkdir()
    with pytest.raises(ScriptError, match="folders of models"):
        training.models([str(model)])
    (model / "config.json").touch()
    assert training.models([str(model)]) == [model]
    program.write_text(
        "import json, os, sys, pathlib\n"
        "job, number, other = json.loads(input()), 0, not pathlib.Path('docs').is_dir()\n"
        "print(json.dumps({'kernels': not other}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    number += 1\n"
        "    epoch_s = 100 if number == 1 else 3 if other else 1\n"
        "    print(json.dumps({'steps_s': 1, 'epoch_s': epoch_s, 'texts': 8, 'peak_mb': number}), flush=True)\n"
    )
    monkeypatch.setattr(training, "WORKER", program)
    row = training.measure(model, against.Build("commit abc1234", tmp_path), 1, 0)
    assert row["kernels"] == {"this": True, "other": False}
    assert (row["steps"]["ratio"], row["epoch"]["ratio"], row["epoch"]["other"]["seconds"]) == (1, 3, [3] * 5)
    assert row["peak_mb"] == {"this": 6, "other": 6}
    lines = tables.training([row]).splitlines()
    assert lines[-1] == "| model | commit abc1234 | epoch | 8 | 2.67 | 3.00 [3.00, 3.00] | 6 | 6 |"


def test_training_is_compared_with_another_build() -> None:
    """Alone it is refused before anything is measured."""
    arguments = bench.parser().parse_args(["--only", "training", "--threads", "1"])
    threads = torch.get_num_threads()
    try:
        with ExitStack() as stack, pytest.raises(ScriptError, match="by --against"):
            suites.measure(arguments, stack, lambda _: None)
    finally:
        torch.set_num_threads(threads)


def test_examples_in_docstrings() -> None:
    """They run."""
    assert doctest.testmod(against).failed == 0
