"""The servers of this package and LitServe, with their own ports and folders; whoever starts one stops it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.http import Endpoint, LoadClient
from scripts.cli.console import ROOT, ScriptError
from scripts.client.http import Inference
from scripts.client.ports import free_ports, with_free_ports
from scripts.client.server import Server
from scripts.client.settings import effective

START_S = 120.0  # within which LitServe must answer
KINDS = ("torchserve", "standalone")  # as serve.sh --server names them


@dataclass(frozen=True)
class PackageServer:
    """A server of this package that runs."""

    endpoints: Mapping[str, Endpoint]  # by the names of the archives
    metrics_url: str
    pid: int  # of its first process: Java, or the standalone server


@contextlib.contextmanager
def package_server(kind: str, *archives: Path) -> Iterator[PackageServer]:
    """Serve archives with one of KINDS and this project's settings."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        home = Path(folder)
        (home / "store").mkdir()
        for mar in archives:
            shutil.copy(mar, home / "store")
        config = home / "config.properties"
        settings, _ = with_free_ports((ROOT / "config.properties").read_text(encoding="utf-8"))
        config.write_text(settings, encoding="utf-8")
        where = ["--config", str(config), "--run-dir", str(home)]
        try:
            serve(
                "start",
                "--server",
                kind,
                *where,
                "--model-store",
                str(home / "store"),
                "--models",
                *(mar.stem for mar in archives),
            )
            server = Server.read(config, home)
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {Inference(server).key()}"}
            endpoints = {
                mar.stem: Endpoint(
                    f"{server.inference}/predictions/{mar.stem}", headers, all_labels_body, lambda value: value
                )
                for mar in archives
            }
            metrics_url = f"{effective(config)['metrics_address'].value}/metrics"
            yield PackageServer(endpoints, metrics_url, int((home / "run" / "pid").read_text()))
        finally:
            serve("stop", *where, check=False)


def serve(*arguments: str, check: bool = True) -> None:
    """Run scripts/serve.sh without PYTHONPATH, which would precede the code in an archive."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(ROOT / "scripts" / "serve.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ScriptError(f"the server did not start: {' '.join(done.stderr.split())[-600:]}")


def all_labels_body(texts: Sequence[str]) -> bytes:
    """Return the body of a request for every label of texts."""
    return json.dumps({"inputs": list(texts), "parameters": {"top_k": None}}).encode()


@contextlib.contextmanager
def litserve(folder: Path, threads: int, batch: int) -> Iterator[tuple[Endpoint, int]]:
    """Serve a model folder with LitServe and a pipeline of transformers; yield its endpoint and its first process."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "scripts.benchmark.litserver", str(folder), str(port), str(threads), str(batch)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        endpoint = Endpoint(
            f"http://127.0.0.1:{port}/predict",
            {"Content-Type": "application/json"},
            lambda texts: json.dumps({"text": texts[0]}).encode(),
            lambda value: [value],
        )
        try:
            deadline = time.monotonic() + START_S
            while not asyncio.run(_responds(endpoint)):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    output = log.read().decode(errors="replace").split()
                    raise ScriptError(f"LitServe did not start: {' '.join(output)[-400:]}")
                time.sleep(0.5)
            yield endpoint, process.pid
        finally:
            stop(process)


async def _responds(endpoint: Endpoint) -> bool:
    client = LoadClient(endpoint.host, endpoint.port, timeout_s=30)
    response = await client.send(endpoint.message(["Ready?"]))
    client.close()
    return response.status == 200


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes it has started."""
    import psutil  # type: ignore[import-untyped]

    family: list[Any] = []
    with contextlib.suppress(psutil.Error):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait(timeout=10)
