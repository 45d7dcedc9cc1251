"""The long form: what each scenario runs, and with which parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from handler.config import ModelConfig
from scripts.cli.console import ROOT, say
from tests.reliability import (
    access,
    clock,
    connections,
    faults,
    fuzz,
    gateway_link,
    load,
    malformed,
    memory,
    neighbours,
    process_faults,
    soak,
    surroundings,
    versions,
)
from tests.reliability.external import run_tests
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer

BELOW, ABOVE, GENTLE = 0.7, 5.0, 0.2  # of C; GENTLE is for what disturbs by itself
MARGIN_S = 2.0  # beyond the loading time of a worker
STOPPED_S = 5.0  # that the process of the standalone server is suspended


def settings(threads: int | None = None) -> ModelConfig:
    """Return the settings of the project with a number of threads."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    return replace(config, handler=replace(config.handler, threads=threads))


@dataclass
class Suite:
    """One run: a server, its capacity, and the scale of everything."""

    server: ScenarioServer
    folders: tuple[Path, Path]  # two small models that answer differently
    scale: float
    soak_minutes: float
    measured: float = 0.0  # C, once it is measured

    @property
    def capacity(self) -> float:
        """C: right answers a second, measured on first use."""
        if not self.measured:
            self.server.up()
            self.measured = load.capacity(self.server.target, self.seconds(30), 2 * self.server.batch)
            say(f"capacity C: {self.measured:.1f} requests/s")
        return self.measured

    def times(self, repeats: int) -> int:
        """Return a number of repeats at this scale."""
        return max(1, round(repeats * self.scale))

    def seconds(self, seconds: float) -> float:
        """Return a duration at this scale."""
        return max(5.0, seconds * self.scale)

    def below(self) -> Iterator[ScenarioResult]:
        """L1."""
        yield soak.below(self.server, BELOW * self.capacity, self.seconds(600))

    def above(self) -> Iterator[ScenarioResult]:
        """L2."""
        yield soak.above(self.server, self.capacity, ABOVE, self.seconds(60))

    def burst(self) -> Iterator[ScenarioResult]:
        """L3."""
        burst = process_faults.burst if self.server.is_standalone else soak.burst
        yield burst(self.server, self.times(20))

    def soak(self) -> Iterator[ScenarioResult]:
        """L4."""
        yield soak.soak(self.server, BELOW * self.capacity, self.soak_minutes)

    def killed(self) -> Iterator[ScenarioResult]:
        """F1."""
        if self.server.is_standalone:
            yield process_faults.killed(self.server, self.times(20))
        else:
            yield faults.killed(self.server, self.times(20), MARGIN_S)

    def hung(self) -> Iterator[ScenarioResult]:
        """F2."""
        if self.server.is_standalone:
            yield process_faults.stopped_for(self.server, self.times(3), STOPPED_S)
            yield process_faults.engine_stopped(self.server, self.times(3), MARGIN_S)
        else:
            yield faults.hung(self.server, self.times(3), MARGIN_S)

    def drained(self) -> Iterator[ScenarioResult]:
        """F3."""
        yield faults.drained(self.server, self.times(20), BELOW * self.capacity)

    def rolled(self) -> Iterator[ScenarioResult]:
        """F4."""
        self.server.up()
        yield versions.rolled(self.server.live, self.folders, settings(threads=1), self.times(10), rate=20)

    def replicas(self) -> Iterator[ScenarioResult]:
        """F5."""
        kind, test = self.server.kind, "tests/deploy/test_rolling_restart.py"
        rounds = str(self.times(5))
        yield run_tests(
            "F5", "two replicas restarted one after the other", test, SERVE_SERVER=kind, ROLLING_RESTARTS=rounds
        )

    def broken_starts(self) -> Iterator[ScenarioResult]:
        """F6."""
        test = "tests/scripts/operations/test_serve.py"
        yield run_tests("F6", "broken starts end with their reason", test, SERVE_SERVER=self.server.kind)

    def keys(self) -> Iterator[ScenarioResult]:
        """F7."""
        yield access.guarded(expire_s=20, standalone=self.server.is_standalone)

    def connections(self) -> Iterator[ScenarioResult]:
        """F10: the standalone server as it is, and both behind the gateway."""
        seconds, n_deaf = self.seconds(60), self.times(20)
        if self.server.is_standalone:
            yield connections.hostile(self.server, seconds, n_idle=1000, n_slow=100, n_deaf=n_deaf)
        self.server.up()
        with gateway_link.gateway_before(self.server, self.server.live.ports["inference_address"]) as gateway:
            yield connections.hostile(self.server, seconds, n_idle=1000, n_slow=100, n_deaf=n_deaf, gateway=gateway)

    def disk_full(self) -> Iterator[ScenarioResult]:
        """F8."""
        yield surroundings.disk_full(self.server, self.folders[0], settings(threads=1), GENTLE * self.capacity)

    def lossy_network(self) -> Iterator[ScenarioResult]:
        """F9."""
        yield surroundings.lossy_network(self.server, GENTLE * self.capacity, self.seconds(60))

    def replaced_archive(self) -> Iterator[ScenarioResult]:
        """F11."""
        yield surroundings.replaced_archive(self.server, GENTLE * self.capacity)

    def overloaded_neighbour(self) -> Iterator[ScenarioResult]:
        """L5: the server as it is, and behind the gateway."""
        rate, seconds = ABOVE * self.capacity, self.seconds(60)
        for gateway in (False, True):
            yield neighbours.overloaded(
                self.server, self.folders[1], settings(threads=1), rate, seconds, gateway=gateway
            )

    def memory_exhausted(self) -> Iterator[ScenarioResult]:
        """F12."""
        yield memory.exhausted(self.server, self.times(10), GENTLE * self.capacity)

    def clock_jumps(self) -> Iterator[ScenarioResult]:
        """F13."""
        yield clock.jumping(self.server, GENTLE * self.capacity, self.seconds(60))

    def slow_link(self) -> Iterator[ScenarioResult]:
        """F14."""
        yield gateway_link.slow_link(self.server, GENTLE * self.capacity, self.seconds(60))

    def bad_input(self) -> Iterator[ScenarioResult]:
        """B1."""
        yield run_tests(
            "B1",
            "bad input without a server",
            "tests/handler/test_malformed_input.py",
            "tests/handler/protocol/test_strict_json.py",
        )
        yield malformed.mixed(self.server, every=max(1, round(0.1 / self.scale)))

    def fuzzed(self) -> Iterator[ScenarioResult]:
        """B2."""
        examples = str(self.times(300))
        yield run_tests("B2", f"{examples} examples of each task", "tests/handler/test_fuzz.py", FUZZ_EXAMPLES=examples)
        yield fuzz.fuzzed(self.server, self.times(500))

    def batch_invariance(self) -> Iterator[ScenarioResult]:
        """B3."""
        yield malformed.batch_invariance(self.server, self.times(50))


SCENARIOS: Mapping[str, Callable[[Suite], Iterator[ScenarioResult]]] = {
    "L1": Suite.below,
    "L2": Suite.above,
    "L3": Suite.burst,
    "L5": Suite.overloaded_neighbour,
    "F1": Suite.killed,
    "F2": Suite.hung,
    "F3": Suite.drained,
    "F4": Suite.rolled,
    "F5": Suite.replicas,
    "F6": Suite.broken_starts,
    "F7": Suite.keys,
    "F8": Suite.disk_full,
    "F9": Suite.lossy_network,
    "F10": Suite.connections,
    "F11": Suite.replaced_archive,
    "F12": Suite.memory_exhausted,
    "F13": Suite.clock_jumps,
    "F14": Suite.slow_link,
    "B1": Suite.bad_input,
    "B2": Suite.fuzzed,
    "B3": Suite.batch_invariance,
    "L4": Suite.soak,  # last: it takes as long as the others together
}
