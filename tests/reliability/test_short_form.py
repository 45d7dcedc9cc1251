"""The short form of the reliability suite: each scenario once, with few requests, on one TorchServe with a tiny model.

What other tests cover is not repeated: F4 (tests/scripts/operations/test_rollout.py), F5
(tests/deploy/test_rolling_restart.py), F6 (tests/scripts/operations/test_serve.py).
The standalone server is asked by tests/torchserve/test_live_standalone.py; its engine that hangs is here, for it ends.
Nothing here depends on the speed of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.client.settings import effective
from tests.reliability import access, faults, fuzz, malformed, process_faults, soak
from tests.reliability.plan import settings
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, scenario_server
from tests.reliability.surroundings import NotPermitted

pytestmark = pytest.mark.server

MARGIN_S = 20.0  # beyond loading time: CI shares its cores


@pytest.fixture(scope="module")
def server(model_folder: Path) -> Iterator[ScenarioServer]:
    """Return a server of a tiny model whose worker counts as hung after more than a batch takes on a busy machine."""
    config = settings(threads=1)
    config = replace(config, frontend=replace(config.frontend, responseTimeout=20))
    with scenario_server(model_folder, config, 1200) as running:
        yield running


def check(result: ScenarioResult) -> None:
    """Fail where an invariant is violated."""
    print(result.summary())
    assert result.holds, (result.violations, result.summary())


def test_below_capacity(server: ScenarioServer) -> None:
    """L1, with fewer requests than the queue holds."""
    check(soak.below(server, rate=60, seconds=3))


def test_a_burst(server: ScenarioServer) -> None:
    """L3."""
    check(soak.burst(server, repeats=1))


def test_bad_requests_among_good_ones(server: ScenarioServer) -> None:
    """B1."""
    check(malformed.mixed(server, every=8))


def test_a_text_in_any_batch(server: ScenarioServer) -> None:
    """B3."""
    check(malformed.batch_invariance(server, rounds=2))


def test_requests_generated_from_the_document(server: ScenarioServer) -> None:
    """B2."""
    check(fuzz.fuzzed(server, examples=5))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer Xyzzymark"}], ids=["a key", "a wrong key"])
def test_a_body_above_the_limit_is_refused_unread(server: ScenarioServer, headers: dict[str, str]) -> None:
    """The one response in B2 that the document does not describe: 413 without content or type, whoever asks."""
    server.up()
    limit = int(effective(server.live.config)["max_request_size"].value)
    body = b" " * (limit + 1)
    response = server.live.post(f"/predictions/{server.target.model}", body, headers=headers)
    assert fuzz.is_refused_unread(response.status_code, response.content, body, limit)
    assert "Content-Type" not in response.headers


def test_a_killed_worker(server: ScenarioServer) -> None:
    """F1."""
    check(faults.killed(server, repeats=1, margin_s=MARGIN_S))


def test_a_hung_worker(server: ScenarioServer) -> None:
    """F2."""
    check(faults.hung(server, repeats=1, margin_s=MARGIN_S))


def test_a_server_that_is_stopped(server: ScenarioServer) -> None:
    """F3; the server is gone afterwards."""
    check(faults.drained(server, repeats=1, rate=20))  # and two batches, which a slow machine answers in its grace


def test_a_hung_engine(model_folder: Path) -> None:
    """F2 of the standalone server, whose engine is a thread: each request gets a 503 and its reason, and it ends."""
    config = settings(threads=1)
    config = replace(config, frontend=replace(config.frontend, responseTimeout=6))
    with scenario_server(model_folder, config, 200, "standalone") as server:
        try:
            check(process_faults.engine_stopped(server, repeats=1, margin_s=MARGIN_S))
        except NotPermitted as error:
            pytest.skip(str(error))  # a container may forbid what debuggers do


def test_keys() -> None:
    """F7."""
    check(access.guarded(expire_s=20))  # in which forty requests are answered by a busy machine
