"""Ray: a cluster that is there or one on this machine, and workers that take one part after the other.

A worker that dies is started again, and its part done again, as often as it takes (Ray Data's own default); a part that
ends every worker is left out by the workers themselves.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from handler.config import usable_cores
from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.scoring.job import Job
from scripts.scoring.scorer import Scorer, Setup

MOST_CORES = 8  # of a worker, unless more are asked for
WAITING = 2  # parts that a worker has at most, the one it answers included


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each of them gets."""

    count: int
    cores: int
    gpus: float


def import_ray() -> Any:
    """Import Ray; raises ScriptError where it is not installed."""
    # Read at the import. It reports nothing about its use; what it says of itself is in its logs.
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "ERROR", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    for name, value in {**quiet, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise ScriptError(
            "scripts/score.py needs Ray: .venv/bin/python -m pip install -r requirements/score.txt "
            "-c requirements/constraints.txt"
        ) from None
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine for as long as it is needed."""
    ray = import_ray()
    # Nothing but numbers goes through the store of objects: it may be small.
    own = {} if address else {"num_cpus": usable_cores(), "object_store_memory": 256 << 20, "include_dashboard": False}
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError) as error:
        raise ScriptError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def workers(ray: Any, count: int | None, cores: int | None, gpus: float) -> Workers:
    """Find out how many workers the nodes have room for.

    Raises:
        ScriptError: for none, on any node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    cores = cores or min(MOST_CORES, *(int(node["CPU"]) for node in nodes), MOST_CORES)
    room = sum(room_of(node.get("CPU", 0), node.get("GPU", 0), cores, gpus) for node in nodes)
    if not room:
        raise ScriptError(f"no node of the cluster has {cores} cores and {gpus:g} GPUs: change --cpus or --gpus")
    return Workers(min(count or room, room), cores, gpus)


def room_of(node_cores: float, node_gpus: float, cores: int, gpus: float) -> int:
    """Count the workers that a node has room for.

    >>> room_of(8, 2, cores=2, gpus=0.5), room_of(8, 0, cores=3, gpus=0)
    (4, 2)
    """
    return int(min(node_cores // cores, node_gpus / gpus if gpus else math.inf))


def run(ray: Any, job: Job, setup: Setup, pool: Workers) -> Iterator[JSON]:
    """Let workers answer what is missing; yield what became of each part, in the order they are done.

    Raises:
        ScriptError: a worker could not load the model, or not read or write a file.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    for old in job.folder.glob(".tries-*"):  # of a run before this one
        old.unlink()
    rows = [{"part": part_of(job, index)} for index in job.missing()]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Scorer,
        fn_constructor_args=(setup,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool.count, max_tasks_in_flight_per_actor=WAITING),
        num_cpus=pool.cores,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in dataset.iter_rows():
            told = json.loads(row["told"])
            if "failure" in told:
                raise ScriptError(told["failure"])
            yield told
    except ray.exceptions.RayError as error:
        raise ScriptError(
            f"Ray gave up ({type(error).__name__}): what is answered is kept, start again to go on"
        ) from None


def part_of(job: Job, index: int) -> str:
    """Say what a worker needs to know of a part."""
    numbers: Sequence[int] = list(asdict(job.parts[index]).values())
    return json.dumps([index, numbers, str(job.path(index).resolve())])
