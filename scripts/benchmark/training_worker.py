"""Process of scripts/bench.py --against that trains: runs scripts/train.py of the current folder, one epoch on demand.

Its text is passed to `python -c` in a checkout of any commit since a7c79b7. Reads its job, the arguments of
scripts/train.py, and then one line for each epoch from standard input; writes one line of JSON for each to standard
output.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

MAX_EPOCHS = 1000  # more than are asked for


def main() -> None:
    """Train until standard input ends."""
    job = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what training prints is no answer
    import torch
    import transformers

    torch.set_num_threads(job["threads"])
    clock = EpochClock(answers)
    count_texts(transformers.Trainer, clock)

    class EpochCallback(transformers.TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            clock.begin_epoch()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            clock.end_steps()

    callbacks: list[Any] = transformers.trainer.DEFAULT_CALLBACKS
    callbacks.append(EpochCallback)
    command = importlib.import_module("scripts.train")  # of the other build
    command.main([*job["arguments"], "--epochs", str(MAX_EPOCHS)])


class EpochClock:
    """Waits before each epoch for a line, and answers it when the next one begins."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._began: float | None = None
        self._steps_s = 0.0
        self.texts = 0

    def begin_epoch(self) -> None:
        """Answer for the epoch before, with evaluation and saving behind it, and wait."""
        answer: dict[str, Any] = {"ready": True, "kernels": has_kernels()}
        if self._began is not None:
            peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            epoch_s = time.perf_counter() - self._began
            answer = {"steps_s": self._steps_s, "epoch_s": epoch_s, "texts": self.texts, "peak_mb": peak_mb}
        print(json.dumps(answer), file=self._answers, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # the rest would be evaluated and saved for nobody
        self.texts, self._began = 0, time.perf_counter()

    def end_steps(self) -> None:
        """Note that the last step is done."""
        assert self._began is not None
        self._steps_s = time.perf_counter() - self._began


def has_kernels() -> bool:
    """Tell whether this build has compiled code for training; early ones have none to compile."""
    try:
        native = importlib.import_module("scripts.training.native")
    except ImportError:
        return False
    return native.library() is not None


def count_texts(trainer: Any, clock: EpochClock) -> None:
    """Let a Trainer count the texts of its steps."""
    step = trainer.training_step

    def counted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        clock.texts += len(inputs["input_ids"])
        return step(self, model, inputs, *args, **kwargs)

    trainer.training_step = counted


if __name__ == "__main__":
    main()
