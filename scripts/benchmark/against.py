"""Another commit's build beside this one: speed, start and memory, interleaved in one run.

Each build is a checkout that was set up (scripts/setup.sh); its processes run with its own interpreter and handler, and
load the same model. Rounds alternate which build comes first.
Ratios are those of single rounds, of which median and quartiles are reported: a disturbance slows both halves of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark import machine
from scripts.benchmark.models import BenchmarkModel, unpack
from scripts.benchmark.statistics import Timings
from scripts.benchmark.texts import SOURCES, Mix
from scripts.cli.console import ROOT, ScriptError, say

WORKER = Path(__file__).with_name("against_worker.py")
MEASURES = ("engine", "answers")
MIN_SECONDS = 0.05  # of one measurement: a faster run is repeated within it
MIN_ROUNDS = 5
START_ROUNDS = 5
MEMORY = {"anonymous_mb": "Anonymous", "pss_mb": "Pss"}  # figure -> field of /proc/PID/smaps_rollup


@dataclass(frozen=True)
class Build:
    """One checkout."""

    name: str
    root: Path

    @property
    def python(self) -> str:
        """Its own interpreter, or this one where it has none."""
        own = self.root / ".venv" / "bin" / "python"
        return str(own) if own.is_file() else sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        return {**os.environ, "PYTHONPATH": str(self.root), "OMP_WAIT_POLICY": "PASSIVE"}

    def model(self, model: BenchmarkModel, precision: str, scratch: Path) -> Path:
        """Return an unpacked archive of this build's own at a precision; raises ScriptError where it cannot pack it."""
        store = scratch / f"store-{self.name}-{precision}"
        store.mkdir(exist_ok=True)
        options = ["--model", str(model.model_folder), "--name", "against", "--model-store", str(store)]
        options += ["--precision", precision]
        if precision == "int8":
            options += ["--calibration", str(SOURCES[0]), "--evaluation", str(SOURCES[-1]), "--min-accuracy-ratio", "0"]
        command = [self.python, str(self.root / "scripts" / "package.py"), *options]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ScriptError(
                f"{self.name} cannot pack {model.name} in {precision}: {' '.join(done.stderr.split())[-300:]}"
            )
        return unpack(store / "against.mar", scratch / f"unpacked-{self.name}-{precision}")


class BuildProcess:
    """A process of one build that runs the text of a program, which answers its job when it is ready."""

    def __init__(self, build: Build, program: Path, job: Mapping[str, Any]) -> None:
        self.build = build
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [build.python, "-W", "ignore", "-c", program.read_text(encoding="utf-8")],
            cwd=build.root,
            env=build.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.kernels = bool(self.ask(job)["kernels"])
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - began
        self.memory = memory_of(self._process.pid)

    def seconds(self, measure: str, mix: str, repeats: int) -> float:
        """Return the seconds of one run."""
        return float(self.ask({"measure": measure, "mix": mix, "repeats": repeats})["seconds"])

    def ask(self, command: Mapping[str, Any]) -> Any:
        """Send one line; return the line that answers it."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._errors.seek(0)
            output = self._errors.read().decode(errors="replace").split()
            raise ScriptError(f"{self.build.name} in {self.build.root} ended: {' '.join(output)[-400:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


@contextmanager
def workers(builds: Sequence[Build], start: Callable[[Build], BuildProcess]) -> Iterator[list[BuildProcess]]:
    """Run one worker of each build."""
    running: list[BuildProcess] = []
    try:
        for build in builds:
            running.append(start(build))
        yield running
    finally:
        for worker in running:
            worker.close()


def memory_of(pid: int) -> dict[str, float]:
    """Return MEMORY of a process in MB; empty where the system does not have it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return {figure: int(fields[field][0]) / 1e3 for figure, field in MEMORY.items() if field in fields}


def checkout(path: Path) -> Build:
    """Return the build in a folder; raises ScriptError where there is none."""
    if not (path / "handler" / "predictor.py").is_file():
        raise ScriptError(f"--against {path}: no checkout of this repository, as `git worktree add` makes one")
    return Build(f"commit {machine.commit(path)}", path.resolve())


def measure(
    model: BenchmarkModel, precision: str, mixes: Sequence[Mix], other: Build, threads: int, seconds: float
) -> dict[str, Any]:
    """Compare this build with another one at a precision.

    Raises:
        ScriptError: one of them cannot pack or load the model.
    """
    builds = [Build("this", ROOT), other]
    folders = {build.name: build.model(model, precision, model.scratch) for build in builds}

    def start(build: Build) -> BuildProcess:
        return BuildProcess(build, WORKER, job_of(folders[build.name], precision, threads, mixes))

    with workers(builds, start) as (this, that):
        kernels = {"this": this.kernels, "other": that.kernels}
        speed = [speed_row(this, that, name, mix, seconds) for mix in mixes for name in MEASURES]
    row = {"model": model.name, "precision": precision, "other": other.name, "kernels": kernels, "speed": speed}
    for entry in speed:
        say(f"against {model.name} {precision} {entry['mix']}: {entry['measure']} {entry['ratio']:.2f} x {other.name}")
    start_rows = start_row(builds, start)
    say(f"against {model.name} {precision}: start {start_rows['ratio']:.2f} x {other.name}")
    return {**row, "start": start_rows}


def job_of(folder: Path, precision: str, threads: int, mixes: Sequence[Mix]) -> dict[str, Any]:
    """Return the job of against_worker.py."""
    texts = {mix.name: list(mix.texts) for mix in mixes}
    return {"model": str(folder.resolve()), "precision": precision, "threads": threads, "mixes": texts}


def speed_row(this: BuildProcess, that: BuildProcess, name: str, mix: Mix, seconds: float) -> dict[str, Any]:
    """Measure one mix on both builds, alternating which comes first."""
    pair = (this, that)
    once = min(worker.seconds(name, mix.name, 1) for worker in pair for _ in "12")
    repeats = max(1, round(MIN_SECONDS / max(once, 1e-6)))
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < MIN_ROUNDS or time.perf_counter() - began < seconds:
        for which in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[which].append(pair[which].seconds(name, mix.name, repeats))
    return {
        "mix": mix.name,
        "measure": name,
        **compared(*times),
        "texts_per_s": len(mix.texts) / Timings(tuple(times[0])).median,
    }


def start_row(builds: Sequence[Build], start: Callable[[Build], BuildProcess]) -> dict[str, Any]:
    """Start both builds in turn; return seconds until the first answer, and memory after it."""
    times: tuple[list[float], list[float]] = ([], [])
    memory: list[dict[str, float]] = [{}, {}]
    for number in range(START_ROUNDS):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            worker = start(builds[which])
            times[which].append(worker.start_s)
            memory[which] = worker.memory
            worker.close()
    return {**compared(*times), "memory": {"this": memory[0], "other": memory[1]}}


def compared(this: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """Return both times, and how many times faster this build is.

    >>> compared([1.0, 2.0, 1.0], [2.0, 2.0, 3.0])["ratio"]
    2.0
    """
    ratios = Timings(tuple(theirs / ours for ours, theirs in zip(this, other, strict=True)))
    return {
        "this": Timings(tuple(this)).to_json(),
        "other": Timings(tuple(other)).to_json(),
        "ratio": ratios.median,
        "ratio_spread": list(ratios.quartiles),
    }
