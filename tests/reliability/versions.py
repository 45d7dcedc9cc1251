"""F4: versions of a model change under load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.archives.store import Archive, Store
from scripts.cli.console import say
from tests.reliability.load import ScenarioLoad
from tests.reliability.oracle import Oracle, different_texts
from tests.reliability.result import ScenarioResult
from tests.reliability.server import Target
from tests.support.live import Live

MODEL = "rolling"
N_TEXTS = 1000
MIN_ANSWERS = 10  # of each version, for the load to prove anything


def rolled(
    live: Live,
    folders: tuple[Path, Path],
    settings: ModelConfig,
    repeats: int,
    rate: float,
    before: Callable[[], object] = lambda: None,
) -> ScenarioResult:
    """F4: from version 1.0 to 2.0 and back: no request fails, and each answer is of one version.

    Args:
        live: a running server, which serves 1.0 at the end.
        folders: two models that answer differently.
        before: called under load before 2.0 becomes the default for the first time.
    """
    store = Store(live.store)
    build(ArchiveContents(folders[0], MODEL, "1.0", settings), live.store)
    live.script("models.py", "register", MODEL)
    build(ArchiveContents(folders[1], MODEL, "2.0", settings), live.store)  # the store keeps 1.0 for the rollback
    archives = [store.kept(MODEL)["1.0"], store.current(MODEL)]
    hashes = [Archive.read(mar).hash for mar in archives]
    oracle = Oracle.of(different_texts(N_TEXTS), *archives)
    with ScenarioLoad(Target(live, MODEL, oracle), rate=rate) as load:
        before()
        live.script("models.py", "promote", MODEL, "--version", "2.0")
        for number in range(2 * repeats - 1):  # every rollback returns to the version before
            live.script("models.py", "rollback", MODEL)
            say(f"F4: {number // 2 + 1} of {repeats}")
    served = [load.ledger.served[model_hash] for model_hash in hashes]
    return ScenarioResult(
        "F4",
        f"{repeats} times from 1.0 to 2.0 and back at {rate:.3g} requests/s: none fails, each answer is of one version",
        {
            **load.ledger.figures(load.sent),
            "by 1.0": served[0],
            "by 2.0": served[1],
            "slowest s": max(load.latency_s["right"], default=0.0),
        },
        {
            **load.ledger.invariants(load.sent),
            f"{load.sent} answered": load.ledger.counts["right"] == load.sent,
            "both versions answered": min(served) >= MIN_ANSWERS,
            "1.0 serves again": Archive.read(store.current(MODEL)).version == "1.0",
        },
    )
