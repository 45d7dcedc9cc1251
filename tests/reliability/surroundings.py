"""F8, F9, F11: a full disk, a network that loses packets, a broken archive; all under load.

F8 mounts small file systems and F9 sets packet filters, for this server alone and for as long as they run: they need
root on Linux, and raise NotPermitted elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ScriptError
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer

SECOND = "second"  # a model that is registered while the disk is full
ENDED_S = 60.0  # within which a start with a broken archive must have ended


class NotPermitted(ScriptError):
    """The machine does not allow what a scenario needs."""


def disk_full(server: ScenarioServer, folder: Path, settings: ModelConfig, rate: float) -> ScenarioResult:
    """F8: no room for archives and logs: answers go on; registering fails with the reason, and works afterwards."""
    server.stop()
    home = server.live.run_dir
    build(ArchiveContents(folder, SECOND, "1.0", settings), server.live.store)
    with small_disk(home / "run", _unpacked_mb(server) + 8) as unpacked, small_disk(home / "logs", 1) as logs:
        server.up()
        with ScenarioLoad(server.target, rate=rate) as load:
            for disk in (unpacked, logs):
                _fill(disk)
            time.sleep(2)
            refused = server.live.script("models.py", "register", SECOND, check=False)
            time.sleep(2)
            for disk in (unpacked, logs):
                (disk / "filler").unlink()
            accepted = server.live.script("models.py", "register", SECOND, check=False)
        server.stop()
    output, then = (" ".join((done.stdout + done.stderr).split()) for done in (refused, accepted))
    ledger = load.ledger
    return ScenarioResult(
        "F8",
        f"the disks of archives and logs full at {rate:.3g} requests/s: all answered, registering says why it fails",
        {**ledger.figures(load.sent), **load.times(), "said": output[-160:], "then": then[-160:]},
        {
            **ledger.invariants(load.sent),
            f"{load.sent} answered": ledger.counts["right"] == load.sent,
            "registering fails": refused.returncode != 0,
            "with the reason": "space" in output or "needs" in output,
            "registering works once there is room": accepted.returncode == 0,
        },
    )


def lossy_network(server: ScenarioServer, rate: float, seconds: float, broken_s: float = 5.0) -> ScenarioResult:
    """F9: one packet of a hundred is lost both ways, then all for some seconds: each request is answered once."""
    server.up()
    with ScenarioLoad(server.target, rate=rate) as load:
        with dropped(server.live.ports["inference_address"], 0.01):
            time.sleep(seconds)
        before = load.ledger.counts["right"]
        with dropped(server.live.ports["inference_address"], 1):
            time.sleep(broken_s)
            during = load.ledger.counts["right"] - before
        time.sleep(broken_s)
    ledger = load.ledger
    return ScenarioResult(
        "F9",
        f"1 % of the packets lost for {seconds:.0f} s, all for {broken_s:g} s, at {rate:.3g} requests/s: all answered",
        {**ledger.figures(load.sent), **load.times(), "right while broken": during},
        {
            **ledger.invariants(load.sent),
            f"{load.sent} answered": ledger.counts["right"] == load.sent,
            "the network was broken": during <= max(2, rate),
        },
    )


def replaced_archive(server: ScenarioServer, rate: float) -> ScenarioResult:
    """F11: a broken archive in the place of the one that serves: answers go on, a restart fails with the reason."""
    server.up()
    mar = server.live.store / f"{server.target.model}.mar"
    kept = mar.with_suffix(".kept")
    shutil.copyfile(mar, kept)
    with ScenarioLoad(server.target, rate=rate) as load:
        time.sleep(1)
        kept_bytes = kept.read_bytes()
        partial = mar.with_suffix(".partial")
        partial.write_bytes(kept_bytes[: len(kept_bytes) // 2])
        partial.replace(mar)
        time.sleep(1)
        promoted = server.live.script("models.py", "promote", server.target.model, "--version", "2.0", check=False)
        time.sleep(2)
    server.stop()
    began = time.monotonic()
    try:
        server.up()
        said = ""
    except ScriptError as error:
        said = str(error)
    ended_s = time.monotonic() - began
    code = server.stop()
    kept.replace(mar)
    server.up()
    ledger = load.ledger
    return ScenarioResult(
        "F11",
        f"half an archive in its place at {rate:.3g} requests/s: all answered; a restart fails with the reason",
        {**ledger.figures(load.sent), **load.times(), "ended s": ended_s, "said": said[-200:]},
        {
            **ledger.invariants(load.sent),
            f"{load.sent} answered": ledger.counts["right"] == load.sent,
            "promoting it fails": promoted.returncode != 0 and "no whole archive" in promoted.stderr + promoted.stdout,
            "the start fails": bool(said) and code != 0,
            "in time": ended_s <= ENDED_S,
        },
    )


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of some megabytes in memory over a folder."""
    folder.mkdir(exist_ok=True)
    _as_root("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder))
    try:
        yield folder
    finally:
        _as_root("umount", "--lazy", str(folder))


@contextlib.contextmanager
def dropped(port: int, probability: float) -> Iterator[None]:
    """Drop packets to and from a port of the loopback at random."""
    chance = ["--probability", str(probability), "-j", "DROP"]
    rules = [
        ["INPUT", "-i", "lo", "-p", "tcp", direction, str(port), "-m", "statistic", "--mode", "random", *chance]
        for direction in ("--dport", "--sport")
    ]
    with contextlib.ExitStack() as undo:
        for rule in rules:
            _as_root("iptables", "-A", *rule)
            undo.callback(_as_root, "iptables", "-D", *rule)
        yield


def _as_root(*command: str) -> None:
    if os.geteuid() != 0 or not shutil.which(command[0]):
        raise NotPermitted(f"{command[0]} needs root, and to be installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPermitted(f"{command[0]} is not possible here: {done.stderr.strip()}")


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def _unpacked_mb(server: ScenarioServer) -> int:
    return (server.live.store / f"{server.target.model}.mar").stat().st_size // 1_000_000 + 1  # archives are stored
