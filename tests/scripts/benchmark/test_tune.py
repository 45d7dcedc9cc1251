"""The decision of scripts/tune.py on canned measurements, and one short run for real."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from handler.config import ModelConfig
from scripts import tune
from scripts.benchmark import capacity, machine, tuning
from scripts.benchmark.tuning import Measurements, decide, stretch, to_yaml
from scripts.cli.console import ScriptError
from tests.support.samples import ROOT

BASE = ModelConfig.read(ROOT / "model-config.yaml")
# One worker: 10 ms a call and 2 ms a text. Two workers: no faster together.
MEASURED = Measurements(
    precision="fp32",
    cores=2,
    mean_tokens=15.0,
    sd_tokens=6.0,
    batches=[(n, 0.010 + 0.002 * n) for n in (1, 2, 4, 8, 16, 32, 64)],
    budgets=[(128, 4000.0), (256, 6000.0), (512, 7000.0), (1024, 7100.0), (2048, 7150.0)],
    fleets=[(1, 7000.0), (2, 7000.0)],
)


def test_the_largest_batch_that_keeps_the_target() -> None:
    """A request may wait for one batch and then be in the next."""
    decision = decide(MEASURED, 150, BASE)
    assert decision.config.frontend.batchSize == 16
    seconds = 0.042 + 16 * tuning.SERVING_MS / 1e3 / 2
    assert decision.plan.bound_ms == pytest.approx(tuning.OVERHEAD_MS + 2 + 2e3 * seconds * stretch(MEASURED, 16))
    assert decision.plan.rate == pytest.approx(16 / seconds)
    assert decide(MEASURED, 1000, BASE).config.frontend.batchSize == 64


def test_more_time_carries_more() -> None:
    """A looser target never carries less."""
    rates = [decide(MEASURED, target, BASE).plan.rate for target in (60, 100, 200, 400)]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_the_smallest_budget_that_is_nearly_best() -> None:
    """More tokens only make others wait."""
    assert decide(MEASURED, 150, BASE).config.handler.max_batch_tokens == 512


def test_one_worker_unless_more_are_faster() -> None:
    """A second copy of the model must earn its memory."""
    config = decide(MEASURED, 150, BASE).config
    assert (config.frontend.minWorkers, config.frontend.maxWorkers, config.handler.threads) == (1, 1, 2)
    faster = decide(replace(MEASURED, fleets=[(1, 7000.0), (2, 10000.0)]), 150, BASE).config
    assert (faster.frontend.minWorkers, faster.handler.threads) == (2, 1)


def test_a_target_out_of_reach_says_what_to_do() -> None:
    """Not even one text alone is answered in time."""
    with pytest.raises(ScriptError, match="one text alone takes 12 ms"):
        decide(MEASURED, 20, BASE)


@pytest.mark.parametrize("target", [60, 150, 2000])
def test_what_is_written_can_be_read(tmp_path: Path, target: float) -> None:
    """With the reasons as comments, and everything else as it was."""
    decision = decide(MEASURED, target, BASE)
    file = tmp_path / "model-config.yaml"
    file.write_text(to_yaml(decision, ["For a test."]), encoding="utf-8")
    assert ModelConfig.read(file) == decision.config
    text = file.read_text()
    assert text.startswith("# For a test.\n")
    assert all(len(line) <= 120 for line in text.splitlines())
    for setting, reason in decision.reasons.items():
        assert f"# {reason[:40]}" in text, setting
    kept = {"responseTimeout", "startupTimeout", "maxRetryTimeoutInSec"}
    assert all(getattr(decision.config.frontend, name) == getattr(BASE.frontend, name) for name in kept)
    assert decision.config.handler.max_texts == BASE.handler.max_texts


def test_what_cannot_be_checked_is_refused_before_the_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(machine.PEERS, "loadgen", ("nowhere-to-be-found",))
    options = ["random:1x64", "--p99-ms", "100", "--check", "--output", str(tmp_path / "tuned.yaml")]
    monkeypatch.setattr(sys, "argv", ["tune.py", *options])
    monkeypatch.setattr(capacity, "measure", lambda *_: pytest.fail("measured first"))
    threads = torch.get_num_threads()
    try:
        with pytest.raises(
            ScriptError, match=r"--check: nowhere-to-be-found not installed; pip install .* leave --check out"
        ):
            tune.main()
    finally:
        torch.set_num_threads(threads)
    assert not (tmp_path / "tuned.yaml").exists()


def test_a_tiny_model_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure, decide and write; on one thread, so that no other process is started but one."""
    output = tmp_path / "tuned.yaml"
    command = ["tune.py", "random:1x64", "--p99-ms", "60000", "--seconds", "0", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr("handler.config.usable_cores", lambda: 1)
    threads = torch.get_num_threads()
    try:
        tune.main()
    finally:
        torch.set_num_threads(threads)
    config = ModelConfig.read(output)
    assert config.frontend.minWorkers == 1
    assert config.frontend.batchSize in capacity.BATCHES
    assert config.handler.max_batch_tokens in capacity.BUDGETS
