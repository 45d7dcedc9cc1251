"""The benchmark for GPUs, where there is none: every part of it once on a tiny model, and the report of that."""

from __future__ import annotations

import doctest
import json
import os
import queue
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handler.engine import memory
from handler.protocol import loads
from scripts import bench_gpu
from scripts.benchmark import gpu, gpu_pieces, gpu_profile, gpu_report, gpu_smoke, gpu_workers, roofline, synthetic
from tests.support.samples import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink everything; the compiler, which takes longer than all the rest, compiles nothing."""
    for module in (gpu, gpu_pieces):
        monkeypatch.setattr(module, "MODELS", {"tiny": (2, 64)})
    monkeypatch.setattr(gpu, "COMPILED_PEER", ("tiny",))
    monkeypatch.setattr(gpu, "TOKENS", 1500)
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    monkeypatch.setattr(gpu, "SIZES", (8, 16))
    monkeypatch.setattr(gpu, "TIMES", 3)
    monkeypatch.setattr(memory, "BUDGETS", (256, 1024))
    monkeypatch.setattr(gpu, "square", lambda precision, device: roofline.square(precision, device, 64))
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)


@pytest.mark.usefixtures("tiny")
def test_every_part_for_real() -> None:
    """What is measured is kept after each part, and rendered; what needs a GPU is left out with its reason."""
    kept: list[Any] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        gpu.measure("tiny", time.time() + 500, lambda results: kept.append(json.loads(json.dumps(results))), CPU)
    finally:
        torch.set_num_threads(threads)
    results = kept[-1]
    assert len(kept) == 7
    assert [reason.split(",")[0] for reason in results["left_out"]] == ["tiny: kernels"]
    assert [mix["mix"] for mix in results["speed"]] == ["squad", "short", "mixed"]
    for mix in results["speed"]:
        assert not mix["left_out"]
        assert len(mix["rows"]) == 4
        ours = mix["rows"][0]
        assert ours["name"].startswith("engine")
        assert ours["of_own_products"] > 0
        assert ours["of_peak"] > 0
        assert all(row["texts_per_s"] > 0 for row in mix["rows"])
    assert {row["texts"] for row in results["latency"]} == {1, 8, 32}
    assert [row["chosen"] for row in results["budgets"]] == [False, True]
    (agreed,) = results["agreement"]
    assert agreed["same_label"] > 0.9
    assert agreed["composition"] < 0.05
    rendered = gpu_report.render({"about": {"GPU": "none"}, "models": [results], "left_out": results["left_out"]})
    for line in ("## Speed", "## Latency", "## Token budget", "## Agreement", "## Left out", "* **GPU**: none"):
        assert line in rendered
    assert "## Workers" not in rendered
    assert f") | **{results['speed'][0]['rows'][0]['name']}** |" in rendered


@pytest.mark.usefixtures("tiny")
def test_what_does_not_begin_in_time_is_left_out() -> None:
    """All of it is named."""
    kept: list[Any] = []
    gpu.measure("tiny", time.time(), kept.append, CPU)
    assert len(kept[-1]["left_out"]) == 7
    assert all("for lack of time" in reason for reason in kept[-1]["left_out"])


@pytest.mark.usefixtures("tiny")
def test_a_worker_answers_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From bytes to bytes, every shape of request."""
    monkeypatch.setattr(gpu_workers, "BATCHES", ((4, 1), (2, 3)))
    monkeypatch.setattr(gpu_workers, "SECONDS", 0.01)
    folder = synthetic.random_classifier(tmp_path / "model", 1, 64, synthetic.word_tokenizer(31_000))
    answers: queue.Queue[list[float]] = queue.Queue()
    threads = torch.get_num_threads()
    gpu_workers._worker(folder, "cpu", "fp32", threads, threading.Barrier(1), answers)
    speeds = answers.get(timeout=1)
    assert len(speeds) == 2
    assert all(speed > 0 for speed in speeds)
    bodies = [loads(request.body.content.decode()) for request in gpu_workers.bodies(2, 3, gpu.SQUAD)]  # type: ignore[union-attr]
    assert len({text for body in bodies for text in body["inputs"]}) == 6


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a line, an exit code, and a report of what was left out."""
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--only", "small", "--output", str(tmp_path), "--device", "cpu"])
    assert bench_gpu.main() == 1
    assert "no GPU to measure" in capfd.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text())["left_out"] == ["small: exit code 1"]
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--render", str(tmp_path / "results.json")])
    (tmp_path / "report.md").unlink()
    assert bench_gpu.main() == 0
    assert "* small: exit code 1" in (tmp_path / "report.md").read_text()
    with pytest.raises(ArgumentTypeError, match="tiny is no part"):
        bench_gpu.parts("small,tiny")


def test_the_smoke_test_compares_with_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every precision of the device is tried; one that is wrong, or fails, is named and hides no other."""
    rows = gpu_smoke.measure(CPU)
    assert rows["fp32"]["right"]
    assert rows["fp32"]["error"] == 0
    monkeypatch.setattr(gpu_smoke, "TOLERANCES", {**gpu_smoke.TOLERANCES, "fp32": -1})
    monkeypatch.setattr(gpu_smoke, "supported", lambda _: ["fp16", "fp32"])  # which no CPU of ours computes
    rows = gpu_smoke.measure(CPU)
    assert [row["right"] for row in rows.values()] == [False, False]
    assert "fp16" in rows["fp16"]["failure"]


@pytest.mark.usefixtures("tiny")
def test_variants_are_timed_against_the_engine_as_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices that this device does not make are left out; every choice is back afterwards."""
    monkeypatch.setattr(gpu_profile, "SECONDS", 0.0)
    model = gpu.GpuModel(2, 64, CPU, tmp_path)
    engine: Any = model.predictors[model.half].engine
    engine.max_batch_tokens, engine.graphs = 300, {"any": None}
    rows = gpu_profile.variants(model)
    assert {row["variant"] for row in rows} == {"as served", "no graphs"}
    assert {row["lengths"] for row in rows} == {"squad", "short", "mixed"}
    assert all(row["ratio"] > 0 and row["texts_per_s"] > 0 for row in rows)
    assert engine.graphs == {"any": None}


@pytest.mark.usefixtures("tiny")
def test_every_piece_of_a_layer_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What this device lacks is reported by name, and hides no other; the rates are of the model's own shapes."""

    def once(run: Any, *_: object) -> float:
        run()
        return 1e-6

    for name in ("gpu_seconds", "host_seconds", "sustained"):
        monkeypatch.setattr(gpu_pieces, name, once)
    for name, value in {"CUBE": 64, "ROWS": (64, 128)}.items():
        monkeypatch.setattr(gpu_pieces, name, value)
    output = tmp_path / "pieces.json"
    model = next(iter(gpu.MODELS))
    monkeypatch.setattr(sys, "argv", ["pieces", "--device", "cpu", "--model", model, "--output", str(output)])
    assert gpu_pieces.main() == 0
    rows = {row["name"]: row for row in json.loads(output.read_text())}
    assert {row["part"] for row in rows.values()} == set(gpu_pieces.PARTS)
    width = gpu.MODELS[model][1]
    square = rows[f"64 x {width} x {width} bf16"]
    assert square["tflops"] == pytest.approx(2 * 64 * width**2 / 1e6)
    failed = {name for name, row in rows.items() if "failed" in row}
    assert "squad by tiles, bf16" in failed  # Triton needs a GPU
    assert f"64 x {width} x {4 * width} fp8 by tensor, GELU, to fp8" in failed
    assert not failed & {"bf16 square", "64 norm, fp8", "launch product"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)


def test_a_step_that_fails_loses_nothing_of_the_others(tmp_path: Path) -> None:
    """Each has its log and its line in the summary, which is printed last."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ncase "$1 $2" in "-m pytest") echo broken; exit 3;; "-c import xdist") exit 1;; esac\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_acceptance.sh", "--output", tmp_path / "out", "--only", "smoke,tests,profile"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(fake)},
    )
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert done.stdout.endswith(summary)
    lines = [line.partition(" after")[0] for line in summary.splitlines() if not line.startswith(" ")]
    assert lines == ["smoke: passed", "tests: failed with 3", "profile: passed"]
    assert (tmp_path / "out" / "tests.log").read_text() == "broken\n"


@pytest.mark.parametrize("module", [gpu, gpu_report])
def test_examples_in_docstrings(module: Any) -> None:
    """They run."""
    assert doctest.testmod(module).failed == 0


def test_a_piece_that_there_is_not_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Minutes of a GPU are lost otherwise."""
    monkeypatch.setattr("sys.argv", ["gpu_pieces", "--only", "steps,nope", "--output", str(tmp_path / "pieces.json")])
    with pytest.raises(SystemExit):
        gpu_pieces.main()
    assert "nope is no part; there are ceilings" in capsys.readouterr().err
