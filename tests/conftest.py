"""How tests are collected and distributed, and that their processes have the fixtures of tests/support/fixtures.py."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from handler.gpu_presence import has_gpu

LIVE = "tests/torchserve/test_live_"  # the tests of the server that the quickstart starts
MARKERS = ("server", "slow")

os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # as TorchServe does with our config.properties

# Until the first test: imports and the collection of 6,000 tests create a million objects that stay. Every process of
# the tests saves 1.5 of its first 11 CPU seconds (2026-11-28). The fixture `frozen_modules` enables it.
gc.disable()


def pytest_report_header() -> str:
    """Say whether there is a GPU."""
    name = None
    if has_gpu():
        import torch

        name = torch.cuda.get_device_name()
    return f"GPU: {name or 'none, so tests marked cuda are deselected'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests for a GPU where there is none; let files that wait for servers or train come first.

    So no process ends long after the others. A test of the quickstart's server outside LIVE would start another one.
    """
    if not has_gpu():
        deselected = [item for item in items if item.get_closest_marker("cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=deselected)
    outside = [item.nodeid for item in items if uses_live(item) and not item.nodeid.startswith(LIVE)]
    if outside:
        raise pytest.UsageError(f"tests that use the fixture `live` belong in {LIVE}*.py: {', '.join(outside)}")
    ranks: dict[str, int] = {}
    for item in items:
        ranks[file_of(item.nodeid)] = min(rank(item), ranks.get(file_of(item.nodeid), len(MARKERS) + 1))
    items.sort(key=lambda item: ranks[file_of(item.nodeid)])


def rank(item: pytest.Item) -> int:
    """Return how early a test must begin: 0 for those of the quickstart's server, which takes longest."""
    markers = (number for number, marker in enumerate(MARKERS, 1) if item.get_closest_marker(marker))
    return 0 if uses_live(item) else next(markers, len(MARKERS) + 1)


def uses_live(item: pytest.Item) -> bool:
    """Tell whether a test asks the server that the quickstart starts."""
    return not {"live", "standalone", "each_server"}.isdisjoint(getattr(item, "fixturenames", ()))


def file_of(nodeid: str) -> str:
    """Return the file of a test."""
    return nodeid.partition("::")[0]


class FilesAndServer(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives each file to one process, and all files of the quickstart's server to the same one.

    The groups of pytest-xdist 3.8 (`--dist loadgroup`) have no effect with pytest 9.2: it no longer reads the attribute
    that they are written to.
    """

    def _split_scope(self, nodeid: str) -> str:
        return LIVE if nodeid.startswith(LIVE) else file_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute the tests of several processes so that module and server fixtures are made once."""
    return FilesAndServer(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures, which import PyTorch and transformers, but not in a process that only distributes tests.

    Give PyTorch one thread in each of several test processes: they share the cores.
    """
    is_worker = hasattr(config, "workerinput")
    if not is_worker and config.getoption("dist", "no") != "no" and not config.getoption("collectonly"):
        gc.enable()
        return
    config.pluginmanager.import_plugin("tests.support.fixtures")
    if is_worker:
        import torch

        torch.set_num_threads(1)
