"""The short form of the reliability suite: each scenario once, with few requests, on one server of a tiny model.

What other tests hold already is not repeated: F4 (tests/scripts/operations/test_rollout.py), F5
(tests/deploy/test_rolling_restart.py), F6 (tests/scripts/operations/test_serve.py).
Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability import access, faults, fuzz
from tests.reliability import malformed as hostile
from tests.reliability import soak as steady
from tests.reliability.plan import settings
from tests.reliability.result import Verdict
from tests.reliability.stage import Stage, stage

pytestmark = pytest.mark.server

PATIENT_S = 20.0  # beside what the long form allows: CI shares its cores


@pytest.fixture(scope="module")
def staged(model_folder: Path) -> Iterator[Stage]:
    """Return a server of a tiny model whose worker may hang for six seconds."""
    config = settings(threads=1)
    with stage(model_folder, replace(config, frontend=replace(config.frontend, responseTimeout=6)), 1200) as one:
        yield one


def hold(verdict: Verdict) -> None:
    """Fail where a promise was broken."""
    print(verdict.figures())
    assert verdict.kept, (verdict.broken, verdict.figures())


def test_below_capacity(staged: Stage) -> None:
    """L1, with fewer requests than the queue has room for."""
    hold(steady.below(staged, rate=60, seconds=3))


def test_a_burst(staged: Stage) -> None:
    """L3."""
    hold(steady.burst(staged, repeats=1))


def test_bad_requests_among_good_ones(staged: Stage) -> None:
    """B1."""
    hold(hostile.mixed(staged, every=8))


def test_a_text_in_any_company(staged: Stage) -> None:
    """B3."""
    hold(hostile.company(staged, rounds=2))


def test_requests_made_from_the_document(staged: Stage) -> None:
    """B2."""
    hold(fuzz.fuzzed(staged, examples=5))


def test_a_killed_worker(staged: Stage) -> None:
    """F1."""
    hold(faults.killed(staged, repeats=1, margin_s=PATIENT_S))


def test_a_hung_worker(staged: Stage) -> None:
    """F2."""
    hold(faults.hung(staged, repeats=1, margin_s=PATIENT_S))


def test_a_server_that_is_told_to_stop(staged: Stage) -> None:
    """F3; the server is gone afterwards."""
    hold(faults.drained(staged, repeats=1, rate=60))


def test_keys() -> None:
    """F7."""
    hold(access.guarded(expire_s=6))
