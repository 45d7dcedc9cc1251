"""F12: a server in a control group whose memory ends: the kernel kills its largest process, and others serve again.

The group is made inside the one that this program is in, for as long as the scenario runs: it needs root on Linux with
the memory controller of cgroup v1 or v2, and raises NotPermitted elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark.http import LoadResponse
from scripts.benchmark.load import LoadGenerator
from scripts.cli.console import ScriptError, say
from scripts.client.connection import message
from scripts.client.server import ServerError
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import POLL_S, START_S, ScenarioServer
from tests.reliability.surroundings import NotPermitted

# Of the limit above what the loaded server uses: loading takes more than what is loaded.
ROOM_MB = {"torchserve": 256, "standalone": 160}
LARGE = b'{"inputs":[' + b"{}," * 2_100_000 + b"{}]}"  # 6.3 MB, of which a parser makes some 150 MB; refused
N_LARGE = 4  # of them at once
KILLED_S = 30.0  # within which they must have reached the limit


@dataclass(frozen=True)
class MemoryGroup:
    """A control group."""

    folder: Path
    is_v2: bool

    def used_mb(self) -> float:
        """Return what its processes hold and the kernel cannot take back: not the cached pages of files."""
        names = ("anon", "shmem") if self.is_v2 else ("total_rss", "total_shmem")
        stat = (self.folder / "memory.stat").read_text()
        return sum(int(size) for name, size in re.findall(r"(?m)^(\w+) (\d+)$", stat) if name in names) / 1e6

    def limit(self, megabytes: float) -> None:
        """Set the limit."""
        name = "memory.max" if self.is_v2 else "memory.limit_in_bytes"
        (self.folder / name).write_text(str(int(megabytes * 1e6)))

    def kills(self) -> int:
        """Return how many processes the kernel killed because of the limit."""
        text = (self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")).read_text()
        return int(re.findall(r"(?m)^oom_kill (\d+)$", text)[0])

    def starter(self) -> list[str]:
        """Return the command that starts another one in this group, and not whoever starts it: it could be killed."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs")]


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Make a control group inside the one of this process, and remove it when its processes have ended."""
    paths = dict(re.findall(r"(?m)^\d+:([^:]*):(.*)$", Path("/proc/self/cgroup").read_text()))
    is_v2 = "memory" not in paths
    own = Path("/sys/fs/cgroup") / ("" if is_v2 else "memory") / paths["" if is_v2 else "memory"].lstrip("/")
    group = MemoryGroup(own / f"reliability-{os.getpid()}", is_v2)
    try:
        if is_v2:
            (own / "cgroup.subtree_control").write_text("+memory")
        group.folder.mkdir()
        group.limit(1e6)
    except OSError as error:
        raise NotPermitted(f"no control group can be made in {own}: {error.strerror}") from error
    try:
        yield group
    finally:
        _wait(lambda: not (group.folder / "cgroup.procs").read_text().strip())
        group.folder.rmdir()


def exhausted(server: ScenarioServer, repeats: int, rate: float) -> ScenarioResult:
    """F12: large requests take the server to its limit: no answer is wrong or lost, and it serves again by itself."""
    server.stop()
    sent, counts = 0, dict.fromkeys(("right", "refused", "failed", "cut off"), 0)
    room_mb = ROOM_MB[server.kind]
    away: list[float] = []
    ended: list[int] = []
    invariants: dict[str, bool] = {}
    with memory_group() as group:
        try:
            for number in range(repeats):
                server.up(group.starter())
                pid, kills = server.worker(), group.kills()
                with ScenarioLoad(server.target, rate=rate, first=sent) as load:
                    time.sleep(2)
                    group.limit(group.used_mb() + room_mb)
                    _reach_limit(server, lambda kills=kills: group.kills() > kills)  # type: ignore[misc]
                    began = time.monotonic()
                    killed = group.kills() - kills
                    code = _serves_again(server, pid)
                    if code is None:
                        away.append(time.monotonic() - began)
                        time.sleep(2)
                    load.end()
                if code is not None:
                    ended.append(code)
                    server.up(group.starter())  # as whatever runs it does
                    away.append(time.monotonic() - began)
                assert server.process
                alive = server.process.poll() is None
                ledger, sent = load.ledger, sent + load.sent
                counts["right"] += ledger.counts["right"]
                counts["refused"] += ledger.counts["refused"]
                counts["failed"] += ledger.counts["failed"]
                counts["cut off"] += ledger.counts["lost"]
                held = ledger.invariants(load.sent) | {"a process was killed": killed > 0, "the entrypoint runs": alive}
                invariants |= {
                    f"time {number + 1}: {invariant}": False
                    for invariant, holds in held.items()
                    if not holds and not (code is not None and invariant.endswith(" lost"))
                }
                group.limit(1e6)
                say(f"F12: {number + 1} of {repeats}, killed {killed}, away {away[-1]:.1f} s; {dict(ledger.reasons)}")
        finally:
            group.limit(1e6)
            server.stop()
    way = "fails with a reason, and another worker is ready; or, where the server itself was the largest process, its "
    way += "connection ends, the entrypoint ends with an error and is started again"
    return ScenarioResult(
        "F12",
        f"{repeats} times a server {room_mb} MB below the limit of its memory gets {N_LARGE} bodies that need more, at "
        f"{rate:.3g} requests/s: each request is answered rightly or {way}, under the same limit",
        {"sent": sent, **counts, "servers that ended": len(ended), "away s": max(away)},
        {
            **invariants,
            "right, refused, failed or cut off": sum(counts.values()) == sent,
            "an error code": 0 not in ended,
            "serves again in time": max(away) <= START_S,
        },
    )


def _serves_again(server: ScenarioServer, pid: int) -> int | None:
    """Wait until another worker is ready, or the entrypoint has ended; return its exit code then."""
    assert server.process
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (code := server.process.poll()) is not None:
            return code
        with contextlib.suppress(ServerError):
            model = server.model()
            if model.is_ready and pid not in model.pids:
                return None
        time.sleep(POLL_S)
    raise ScriptError(
        f"no worker of {server.target.model} became ready under the limit; see {server.live.run_dir}/logs"
    )


def _reach_limit(server: ScenarioServer, is_reached: Callable[[], bool]) -> None:
    """Send large bodies until the kernel has killed a process."""
    target = server.target
    headers = {"Authorization": f"Bearer {server.live.key}", "Content-Type": "application/json"}
    large = message("POST", f"/predictions/{target.model}", "127.0.0.1", LARGE, headers)

    def record(_number: int, _response: LoadResponse) -> str:
        return "large"

    with LoadGenerator("127.0.0.1", server.live.ports["inference_address"], lambda _: large, record) as load:
        deadline = time.monotonic() + KILLED_S
        while not is_reached() and time.monotonic() < deadline:
            load.send(N_LARGE)
            until = time.monotonic() + 5
            while not is_reached() and time.monotonic() < until:
                time.sleep(POLL_S)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL_S)
