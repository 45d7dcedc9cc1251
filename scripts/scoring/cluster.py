"""Ray: an existing cluster or one on this machine, and workers that take one part after the other.

Ray restarts a worker that dies and repeats its part without a limit (Ray Data's default); the workers themselves leave
out a part that ended several of them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from handler.config import usable_cores
from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.scoring.job import ScoringJob
from scripts.scoring.scorer import Scorer, ScorerConfig

MAX_CORES = 8  # of a worker, by default
MAX_PARTS_IN_FLIGHT = 2  # of a worker, with the one that it answers


@dataclass(frozen=True)
class WorkerPool:
    """The number of workers, and the cores and GPUs of each."""

    count: int
    cores: int
    gpus: float


def import_ray() -> Any:
    """Import Ray; raises ScriptError where it is not installed."""
    # Ray reads these at import: no usage reports, and its messages go to its logs.
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
    """Connect to a cluster, or start one on this machine for the duration of the `with`.

    Raises:
        ScriptError: no cluster there, or none that takes this process.
    """
    ray = import_ray()
    if not address:  # or Ray writes one into the home folder, which every cluster that is started later asks for
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Only numbers go through the object store: it may be small.
    local = (
        {} if address else {"num_cpus": usable_cores(), "object_store_memory": 256 << 20, "include_dashboard": False}
    )
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # Ray raises the class itself where a process of its own did not start in time
        where = "Ray did not start on this machine, which may be too busy"
        if address:
            where = f"no Ray cluster at {address}"
            if "RAY_AUTH_MODE" not in os.environ:
                where += ", or one that asks for a token, for which RAY_AUTH_MODE=token has to be set"
        raise ScriptError(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def workers(ray: Any, count: int | None, cores: int | None, gpus: float) -> WorkerPool:
    """Return the workers that fit on the nodes.

    Raises:
        ScriptError: no node has the resources of one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    cores = cores or min(MAX_CORES, *(int(node["CPU"]) for node in nodes), MAX_CORES)
    capacity = sum(workers_per_node(node.get("CPU", 0), node.get("GPU", 0), cores, gpus) for node in nodes)
    if not capacity:
        raise ScriptError(f"no node of the cluster has {cores} cores and {gpus:g} GPUs: change --cpus or --gpus")
    return WorkerPool(min(count or capacity, capacity), cores, gpus)


def workers_per_node(node_cores: float, node_gpus: float, cores: int, gpus: float) -> int:
    """Return the number of workers that fit on a node.

    >>> workers_per_node(8, 2, cores=2, gpus=0.5), workers_per_node(8, 0, cores=3, gpus=0)
    (4, 2)
    """
    return int(min(node_cores // cores, node_gpus / gpus if gpus else math.inf))


def run(ray: Any, job: ScoringJob, config: ScorerConfig, pool: WorkerPool) -> Iterator[JSON]:
    """Answer the missing parts; yield the result of each in the order of completion.

    Raises:
        ScriptError: a worker cannot load the model, or cannot read or write a file.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    for leftover in job.folder.glob(".tries-*"):  # of an earlier run
        leftover.unlink()
    rows = [{"part": part_of(job, index)} for index in job.missing()]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Scorer,
        fn_constructor_args=(config,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool.count, max_tasks_in_flight_per_actor=MAX_PARTS_IN_FLIGHT),
        num_cpus=pool.cores,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in dataset.iter_rows():
            result = json.loads(row["result"])
            if "failure" in result:
                raise ScriptError(result["failure"])
            yield result
    except ray.exceptions.RayError as error:
        raise ScriptError(
            f"Ray gave up ({type(error).__name__}): what is answered is kept, start again to go on"
        ) from None


def part_of(job: ScoringJob, index: int) -> str:
    """Return the input of a worker for one part."""
    numbers: Sequence[int] = list(asdict(job.parts[index]).values())
    return json.dumps([index, numbers, str(job.path(index).resolve())])
