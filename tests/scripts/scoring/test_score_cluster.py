"""scripts/score.py on a real cluster of two nodes, of which a worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handler.tasks.scores import values_allclose
from scripts.cli.console import ScriptError
from scripts.client.backends import load
from scripts.scoring.cluster import connected
from scripts.scoring.job import MANIFEST
from tests.support.live import activated
from tests.support.samples import ROOT

SECRET = "xyzzyplugh"  # is in texts, and must never be in a log

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}  # what nobody looks at here
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20, **head})
cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
print(cluster.address, cluster.head_node.get_logs_dir_path(), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True)
class Nodes:
    """A running cluster."""

    address: str
    logs: Path
    process: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """Return the processes that have loaded the model."""
        workers = []
        for child in self.process.children(recursive=True):
            try:
                workers += [child] if "MapBatches(Scorer)" in " ".join(child.cmdline()) else []
            except psutil.Error:  # it is gone
                continue
        return workers


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Run a cluster of two nodes with one core each."""
    environment = {**activated(), "RAY_USAGE_STATS_ENABLED": "0"}
    said = tmp_path / "cluster.log"
    with (
        said.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdout
        assert process.stdin
        try:
            started = process.stdout.readline()
            assert started, said.read_text()
            address, logs = started.split()
            yield Nodes(address, Path(logs), psutil.Process(process.pid))
        finally:
            process.stdin.close()


@pytest.mark.server
def test_a_worker_that_dies_costs_no_row(two_nodes: Nodes, mar: Path, tmp_path: Path) -> None:
    """On two nodes, with files of every form: each row once, with the answer that the model gives it anywhere."""
    texts = {name: [f"{SECRET} {name} {number} " + "word " * (number % 60) for number in range(400)] for name in "abcd"}
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in texts["a"]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts["b"]) + "{\n")
    (tmp_path / "c.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts["c"]))
    pq.write_table(pa.table({"text": [*texts["d"], None]}), tmp_path / "d.parquet")
    files = [str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet")]
    output = tmp_path / "out"
    words = [*files, "--model", str(mar), "--output", str(output), "--rows-per-part", "20", "--top-k", "4"]
    command = [str(ROOT / "scripts" / "score.py"), *words, "--format", "jsonl", "--address", two_nodes.address]
    environment = {**activated(), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        deadline = time.monotonic() + 400  # two workers load beside a training and other servers
        while not list(output.glob("part-*")):
            assert run.poll() is None, run.stderr and run.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim = two_nodes.workers()[0]
        victim.kill()
        victim.wait(timeout=30)
        there = len(list(output.glob("part-*")))
        _, errors = run.communicate(timeout=400)
    print(errors)
    assert run.returncode == 1, errors
    assert 0 < there < 82, "it was killed in the middle"
    manifest = json.loads((output / MANIFEST).read_text())
    assert (manifest["rows"], manifest["errors"]) == (1602, {"InvalidInput": 2})
    rows = [json.loads(line) for path in sorted(output.glob("part-*")) for line in path.read_bytes().splitlines()]
    assert len({(row["file"], row["row"]) for row in rows}) == len(rows) == 1602
    with ExitStack() as stack:
        predictor = load(mar, stack)
    for name, file in zip("abcd", files, strict=True):
        expected = predictor.answer_items(texts[name], {"top_k": 4})
        by_number = {row["row"]: row for row in rows if row["file"] == file}
        assert all(values_allclose(answer, by_number[number]["answer"], 1e-5) for number, answer in enumerate(expected))
    assert SECRET not in errors
    assert not [
        path for path in two_nodes.logs.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")
    ]


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_a_cluster_that_does_not_start_is_one_line(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises an exception without a class of its own where the machine is too busy."""
    reason = "The current node timed out during startup.\nSome processes failed."

    def init(**_: object) -> None:
        raise Exception(reason)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ScriptError) as refusal, connected(address):
        pass
    what = "no Ray cluster at 127.0.0.1:1" if address else "Ray did not start on this machine, which may be too busy"
    assert str(refusal.value) == f"{what}: The current node timed out during startup."


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_the_token_of_a_cluster(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray writes none into the home folder for a cluster of one run, and a cluster that may ask for one is named."""
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if "RAY_AUTH" not in key})
    tokens: list[str | None] = []

    def init(**_: object) -> None:
        tokens.append(os.environ.get("RAY_AUTH_TOKEN"))
        raise Exception("refused")

    monkeypatch.setattr("ray.init", init)
    for _ in range(2):
        with pytest.raises(ScriptError) as refusal, connected(address):
            pass
    assert ("RAY_AUTH_MODE=token has to be set" in str(refusal.value)) == (address is not None)
    assert tokens == [None, None] if address else len(tokens[0] or "") == 64
