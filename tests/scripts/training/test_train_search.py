"""Search of hyper-parameters: trials, the best settings, and the same result after an interruption."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from scripts.training import loop
from scripts.training.settings import parse
from tests.support.animals import VOCABULARY, labelled
from tests.support.training import fit, refusal, tiny, weights, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers and width 32."""
    return tiny(tmp_path_factory.mktemp("models") / "base", VOCABULARY)


def test_the_best_trial_trains_the_model_also_after_an_interruption(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, validation = (write(tmp_path / f"{n}.csv", labelled(n, seed)) for seed, n in enumerate((48, 12)))
    data = ("--train", train, "--validation", validation, "--epochs", 2, "--metric", "loss", "--learning-rate", 1e-5)
    options = (*data, "--search", 3, "--search-over", "learning-rate,batch-size")
    monkeypatch.setenv("COLUMNS", "60")
    record = fit(base, tmp_path / "whole", *options)
    trials = record["search"]
    assert [len(trials), sum(trial["best"] for trial in trials)] == [3, 1]
    assert trials[0]["settings"] == {"learning_rate": 1e-5, "batch_size": 8}  # those of the command
    best = next(trial for trial in trials if trial["best"])
    assert best["value"] == min(trial["value"] for trial in trials if trial["value"] is not None)
    assert {name: record["parameters"][name] for name in best["settings"]} == best["settings"]
    assert record["epochs"][record["best_epoch"] - 1]["validation_loss"] == best["value"]
    words = capsys.readouterr().out.split()
    assert {"learning", "rate", "batch", "size", "validation", "best"} <= set(words), "a narrow table breaks words"

    make_trainer, calls = loop.make_trainer, iter(range(99))

    def interrupted(*arguments: object, **named: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return make_trainer(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_trainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(base, tmp_path / "cut", *options)
    resumed = fit(base, tmp_path / "cut", *options, "--resume")
    assert resumed["search"] == trials
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_what_cannot_be_searched(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse(["--train", "x", "--output", "y", "--search-over", "epochs"], "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = refusal(base, tmp_path, "train.csv", "nonsense", "--search", 2)
    assert message == "--search needs optuna: pip install -r requirements/search.txt"
