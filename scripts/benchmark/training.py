"""Training by another commit's build beside this one: texts a second and peak memory, interleaved by epochs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.against import Build, BuildProcess, compared, workers
from scripts.cli.console import ROOT, ScriptError, say

WORKER = Path(__file__).with_name("training_worker.py")
DATA = ROOT / "examples" / "intents"
DEFAULT_MODEL = ROOT / "models" / "base"
MIN_ROUNDS = 5


def models(names: Sequence[str] | None) -> list[Path]:
    """Return the folders of the models to fine-tune; raises ScriptError where one is none."""
    folders = [Path(name) for name in names or [str(DEFAULT_MODEL)]]
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise ScriptError(
                f"{folder}: training is measured on folders of models, as scripts/setup.sh fetches models/base"
            )
    return folders


def measure(model: Path, other: Build, threads: int, seconds: float) -> dict[str, Any]:
    """Fine-tune a model by this build and another one on the example intents, one epoch of each in turn.

    Raises:
        ScriptError: one of them cannot train it.
    """
    answers: tuple[list[Any], list[Any]] = ([], [])
    with tempfile.TemporaryDirectory() as scratch:

        def start(build: Build) -> BuildProcess:
            data = ["--train", str(DATA / "train.csv"), "--validation", str(DATA / "validation.csv")]
            output = ["--output", str(Path(scratch) / build.name.replace(" ", "-"))]
            return BuildProcess(
                build, WORKER, {"threads": threads, "arguments": ["--model", str(model.resolve()), *data, *output]}
            )

        with workers([Build("this", ROOT), other], start) as pair:
            kernels = {"this": pair[0].kernels, "other": pair[1].kernels}
            for worker in pair:
                worker.ask({})  # the first epoch warms up
            began = time.perf_counter()
            while len(answers[0]) < MIN_ROUNDS or time.perf_counter() - began < seconds:
                for which in (0, 1) if len(answers[0]) % 2 == 0 else (1, 0):
                    answers[which].append(pair[which].ask({}))
    steps, epochs = ([[answer[key] for answer in of_build] for of_build in answers] for key in ("steps_s", "epoch_s"))
    peaks = [of_build[-1]["peak_mb"] for of_build in answers]
    row = {
        "model": model.name,
        "other": other.name,
        "kernels": kernels,
        "texts": answers[0][0]["texts"],
        "steps": compared(*steps),
        "epoch": compared(*epochs),
        "peak_mb": dict(zip(("this", "other"), peaks, strict=True)),
    }
    say(f"training {model.name}: steps {row['steps']['ratio']:.2f}, epoch {row['epoch']['ratio']:.2f} x {other.name}")
    return row
