"""F4: versions of a model come and go under load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handler.config import ModelConfig
from scripts.archives.build import build
from scripts.archives.store import Archive, Store
from scripts.cli.console import say
from tests.reliability.load import Load
from tests.reliability.oracle import Exam, different_texts
from tests.reliability.result import Verdict
from tests.reliability.stage import Target
from tests.support.live import Live

MODEL = "rolling"
N_TEXTS = 1000
LEAST = 10  # answers of each version, or the load proves nothing


def rolled(
    live: Live,
    folders: tuple[Path, Path],
    settings: ModelConfig,
    repeats: int,
    rate: float,
    before: Callable[[], object] = lambda: None,
) -> Verdict:
    """F4: from version 1.0 to 2.0 and back: no request fails, and each answer is that of one version.

    Args:
        live: a running server, which serves 1.0 at the end.
        folders: of two models that answer differently.
        before: what is done under load before 2.0 takes over for the first time.
    """
    store = Store(live.store)
    build(folders[0], MODEL, "1.0", settings, live.store)
    live.script("models.py", "register", MODEL)
    build(folders[1], MODEL, "2.0", settings, live.store)  # keeps 1.0 for the way back
    archives = [store.kept(MODEL)["1.0"], store.current(MODEL)]
    hashes = [Archive.read(mar).hash for mar in archives]
    exam = Exam.of(different_texts(N_TEXTS), *archives)
    with Load(Target(live, MODEL, exam), rate=rate) as load:
        before()
        live.script("models.py", "promote", MODEL, "--version", "2.0")
        for number in range(2 * repeats - 1):  # each way back is one to the version before
            live.script("models.py", "rollback", MODEL)
            say(f"F4: {number // 2 + 1} of {repeats}")
    served = [load.account.served[one] for one in hashes]
    return Verdict(
        "F4",
        f"{repeats} times from 1.0 to 2.0 and back at {rate:.3g} requests/s: none fails, each answer is of one version",
        {
            **load.account.to_json(load.sent),
            "by 1.0": served[0],
            "by 2.0": served[1],
            "slowest s": max(load.right_s, default=0.0),
        },
        {
            **load.account.clean(load.sent),
            f"{load.sent} answered": load.account.counts["right"] == load.sent,
            "both versions answered": min(served) >= LEAST,
            "1.0 serves again": Archive.read(store.current(MODEL)).version == "1.0",
        },
    )
