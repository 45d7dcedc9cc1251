"""Scenarios of tests/reliability on the standalone server; those on TorchServe are its short form."""

from __future__ import annotations

import pytest

from tests.reliability import connections, fuzz, malformed
from tests.reliability.oracle import Oracle, different_texts
from tests.reliability.plan import settings
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target
from tests.support.live import Live

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(standalone: Live) -> ScenarioServer:
    """Return the server with the expected answers of `tiny`."""
    oracle = Oracle.of(different_texts(200), standalone.store / "tiny.mar")
    return ScenarioServer(Target(standalone, "tiny", oracle), settings(), "standalone", is_running=True)


def check(result: ScenarioResult) -> None:
    """Fail where an invariant is violated."""
    print(result.summary())
    assert result.holds, (result.violations, result.summary())


def test_bad_requests_among_good_ones(server: ScenarioServer) -> None:
    """B1."""
    check(malformed.mixed(server, every=16))


def test_requests_generated_from_the_document(server: ScenarioServer) -> None:
    """B2."""
    check(fuzz.fuzzed(server, examples=3))


def test_hostile_clients(server: ScenarioServer) -> None:
    """F10."""
    check(connections.hostile(server, 2, n_idle=300, n_slow=9, n_deaf=1, slack_ms=10_000))
