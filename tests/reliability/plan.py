"""What each promise runs in the long form, and with which figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from handler.config import ModelConfig
from scripts.cli.console import ROOT, say
from tests.reliability import access, faults, fuzz, load, versions
from tests.reliability import malformed as hostile
from tests.reliability import soak as steady
from tests.reliability.external import held_by
from tests.reliability.result import Verdict
from tests.reliability.stage import Stage

BELOW, ABOVE = 0.7, 5.0  # of C
MARGIN_S = 2.0  # beside the time that a worker needs to load


def settings(threads: int | None = None) -> ModelConfig:
    """Return the settings of the project, with so many threads."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    return replace(config, handler=replace(config.handler, threads=threads))


@dataclass
class Suite:
    """One run: a server, its capacity, and how much of everything is done."""

    stage: Stage
    folders: tuple[Path, Path]  # of two small models that answer differently
    scale: float
    soak_minutes: float
    found: float = 0.0  # C, once it was measured

    @property
    def capacity(self) -> float:
        """C: right answers a second, measured before what needs it."""
        if not self.found:
            self.stage.up()
            self.found = load.capacity(self.stage.target, self.seconds(30), 2 * self.stage.batch)
            say(f"capacity C: {self.found:.1f} requests/s")
        return self.found

    def times(self, repeats: int) -> int:
        """Return how often something is done."""
        return max(1, round(repeats * self.scale))

    def seconds(self, seconds: float) -> float:
        """Return how long something is done."""
        return max(5.0, seconds * self.scale)

    def below(self) -> Iterator[Verdict]:
        """L1."""
        yield steady.below(self.stage, BELOW * self.capacity, self.seconds(600))

    def above(self) -> Iterator[Verdict]:
        """L2."""
        yield steady.above(self.stage, self.capacity, ABOVE, self.seconds(60))

    def burst(self) -> Iterator[Verdict]:
        """L3."""
        yield steady.burst(self.stage, self.times(20))

    def soak(self) -> Iterator[Verdict]:
        """L4."""
        yield steady.soak(self.stage, BELOW * self.capacity, self.soak_minutes)

    def killed(self) -> Iterator[Verdict]:
        """F1."""
        yield faults.killed(self.stage, self.times(20), MARGIN_S)

    def hung(self) -> Iterator[Verdict]:
        """F2."""
        yield faults.hung(self.stage, self.times(3), MARGIN_S)

    def drained(self) -> Iterator[Verdict]:
        """F3."""
        yield faults.drained(self.stage, self.times(20), BELOW * self.capacity)

    def rolled(self) -> Iterator[Verdict]:
        """F4."""
        self.stage.up()
        yield versions.rolled(self.stage.live, self.folders, settings(threads=1), self.times(10), rate=20)

    def replicas(self) -> Iterator[Verdict]:
        """F5."""
        yield held_by("F5", "two replicas restarted one after the other", "tests/deploy/test_rolling_restart.py")

    def broken_starts(self) -> Iterator[Verdict]:
        """F6."""
        yield held_by("F6", "broken starts end with their reason", "tests/scripts/operations/test_serve.py")

    def keys(self) -> Iterator[Verdict]:
        """F7."""
        yield access.guarded(expire_s=20)

    def bad_input(self) -> Iterator[Verdict]:
        """B1."""
        yield held_by(
            "B1",
            "bad input without a server",
            "tests/handler/test_malformed_input.py",
            "tests/handler/protocol/test_strict_json.py",
        )
        yield hostile.mixed(self.stage, every=max(1, round(0.1 / self.scale)))

    def fuzzed(self) -> Iterator[Verdict]:
        """B2."""
        examples = str(self.times(300))
        yield held_by("B2", f"{examples} examples of each task", "tests/handler/test_fuzz.py", FUZZ_EXAMPLES=examples)
        yield fuzz.fuzzed(self.stage, self.times(500))

    def company(self) -> Iterator[Verdict]:
        """B3."""
        yield hostile.company(self.stage, self.times(50))


SCENARIOS: Mapping[str, Callable[[Suite], Iterator[Verdict]]] = {
    "L1": Suite.below,
    "L2": Suite.above,
    "L3": Suite.burst,
    "F1": Suite.killed,
    "F2": Suite.hung,
    "F3": Suite.drained,
    "F4": Suite.rolled,
    "F5": Suite.replicas,
    "F6": Suite.broken_starts,
    "F7": Suite.keys,
    "B1": Suite.bad_input,
    "B2": Suite.fuzzed,
    "B3": Suite.company,
    "L4": Suite.soak,  # at the end, for it takes as long as the others together
}
