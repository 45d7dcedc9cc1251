"""scripts/serve.sh where no server starts: every mistake is one line and an exit code, and nothing is left behind.

SERVE_SERVER in the environment chooses the kind of server.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.cli.console import ROOT
from scripts.client.ports import PORTS, free_ports
from tests.support.key_pairs import key_pair
from tests.support.live import activated, own_config, server_kind

Serve = Callable[..., "subprocess.CompletedProcess[str]"]
# With SERVE_SERVER=standalone the same tests run against the other server, which has no Java and no workers.
of_torchserve = pytest.mark.skipif(server_kind() != "torchserve", reason="about Java, or workers of TorchServe")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return settings with ports on which nothing listens."""
    path = tmp_path / "config.properties"
    ports = zip(PORTS, free_ports(len(PORTS)), strict=True)
    lines = [f"{name}={'' if 'port' in name else 'http://127.0.0.1:'}{port}" for name, port in ports]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def serve(config: Path, tmp_path: Path) -> Serve:
    """Return a runner of the script, in a folder of its own."""

    def run(command: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        options = ["--config", str(config), "--run-dir", str(tmp_path / "w"), *map(str, words)]
        return subprocess.run(
            [str(ROOT / "scripts" / "serve.sh"), command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | environment,
        )

    return run


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--what"], "unknown option --what"),
        (["--models"], "--models needs a name"),
        (["--models", "nope"], "no nope.mar in"),
        (["--models", "name=nope.mar"], "no nope.mar in"),
        (["--model-store", "/nowhere/at/all"], "no folder for"),
        (["--config", "nothing"], "no settings at"),
    ],
)
@pytest.mark.parametrize("command", ["start", "run"])
def test_wrong_options(serve: Serve, command: str, words: list[str], complaint: str) -> None:
    """Named in one line, exit code 2."""
    done = serve(command, *words)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_folder_is_not_served_in_place(serve: Serve, tmp_path: Path) -> None:
    """By TorchServe, whose workers map its files: overwriting one changes answers, and cutting one ends them."""
    (tmp_path / "store" / "unpacked").mkdir(parents=True)
    for command in ("start", "run"):
        done = serve(command, "--server", "torchserve", "--model-store", tmp_path / "store", "--models", "m=unpacked")
        assert (done.returncode, "unpacked is a folder, which TorchServe would serve in place" in done.stderr) == (
            2,
            True,
        )


def test_an_unknown_command_shows_the_usage(serve: Serve) -> None:
    """And help is no error."""
    assert serve("dance").returncode == 2
    done = subprocess.run([ROOT / "scripts" / "serve.sh", "--help"], capture_output=True, text=True, check=True)
    assert "start|stop|status|logs|run" in done.stdout


def test_a_port_in_use_is_named(serve: Serve, config: Path) -> None:
    """With the setting that has it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config.write_text(config.read_text() + f"management_address=http://127.0.0.1:{port}\n")
        done = serve("start")
    assert done.returncode == 2
    assert f"port {port} is in use (management_address)" in done.stderr


def test_a_misspelt_setting_is_not_ignored(serve: Serve, config: Path) -> None:
    """TorchServe would start without it, and nobody would know."""
    config.write_text(config.read_text() + "job_queue_sise=5\n")
    for command in ("start", "run"):
        done = serve(command)
        assert done.returncode == 2
        assert "unknown setting job_queue_sise: did you mean job_queue_size?" in done.stderr


def test_no_unsigned_archive_is_started(serve: Serve, config: Path, tmp_path: Path, mar: Path) -> None:
    """Neither one of --models nor one that TorchServe would load by its own settings or variables."""
    key = {"ARCHIVE_PUBLIC_KEY": str(key_pair(tmp_path, "mine")[1])}
    for command in ("start", "run"):
        done = serve(command, "--model-store", mar.parent, "--models", mar.stem, **key)
        assert (done.returncode, "is not signed" in done.stderr, "not started" in done.stderr) == (2, True, True)
        config.write_text(config.read_text() + "enable_envvars_config=true\n")
        done = serve(command, "--model-store", mar.parent, TS_LOAD_MODELS="all", **key)
        assert done.returncode == 2
        assert "are named by --models, not by load_models (TS_LOAD_MODELS)" in done.stderr
    assert not list((tmp_path / "w").glob("key_file.json"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("inference_address=http://127.0.0.1:1 ", "a blank at its end counts"),
        ("number_of_netty_threads=4 ", "number_of_netty_threads is '4 ', not a whole number"),
        ("model_store=$$NOT_SET$$", "needs the environment variable NOT_SET"),
        ("a=\\u12", "four hexadecimal digits"),
    ],
)
def test_a_value_that_torchserve_cannot_use_is_named(serve: Serve, config: Path, line: str, complaint: str) -> None:
    """Before Java starts: its own message would be the last line of a log."""
    config.write_text(config.read_text() + line + "\n")
    done = serve("start")
    assert done.returncode == 2
    assert complaint in done.stderr


@of_torchserve
def test_a_port_that_is_taken_meanwhile_does_not_answer(serve: Serve, config: Path, tmp_path: Path) -> None:
    """Another process listens on every port by the time that Java wants them: that is not reported as a start."""
    ports = [int(port) for port in re.findall(r"\d+$", config.read_text(), re.MULTILINE)]
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"  # takes the place of Java: runs for two seconds and ends
    java.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nsleep 2\necho Address already in use\nexit 1\n")
    java.chmod(0o755)

    def take_ports() -> list[socket.socket]:
        while not (tmp_path / "started").exists():
            time.sleep(0.02)
        return [socket.create_server(("127.0.0.1", port)) for port in ports]

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take_ports)
        done = serve("start", JAVA_HOME=str(tmp_path))
        for each in taken.result():
            each.close()
    assert done.returncode == 2
    assert "answering" not in done.stderr
    assert "Address already in use" in done.stderr
    assert "the server ended while starting" in done.stderr
    assert not (tmp_path / "w" / "run" / "pid").exists()


@of_torchserve
def test_no_java(serve: Serve) -> None:
    """JAVA_HOME wins, so a wrong one is named."""
    done = serve("start", JAVA_HOME="/nowhere")
    assert done.returncode == 2
    assert "no Java at /nowhere/bin/java" in done.stderr


@of_torchserve
def test_a_folder_too_deep_for_a_socket(serve: Serve, tmp_path: Path) -> None:
    """Told before workers fail with a message about an address."""
    done = serve("start", "--run-dir", tmp_path / ("deep" * 30))
    assert done.returncode == 2
    assert "too deep" in done.stderr


def test_nothing_runs(serve: Serve) -> None:
    """`status` says so with 3; `stop` has nothing to do; there is no log."""
    assert serve("status").returncode == 3
    done = serve("stop")
    assert (done.returncode, done.stderr) == (0, "serve: not running\n")
    assert "no log at" in serve("logs").stderr


def test_a_stale_pid_file_names_another_process(serve: Serve, tmp_path: Path) -> None:
    """Its number belongs to somebody else by now, who must not be stopped: here, this test."""
    (tmp_path / "w" / "run").mkdir(parents=True)
    (tmp_path / "w" / "run" / "pid").write_text(f"{os.getpid()}\n")
    done = serve("stop")
    assert (done.returncode, done.stderr) == (0, "serve: not running\n")
    assert not (tmp_path / "w" / "run" / "pid").exists()


def test_status_while_stopping(serve: Serve, tmp_path: Path) -> None:
    """Not ready, so that no new requests come. A server that is gone leaves no such state behind."""
    state = tmp_path / "w" / "run"
    state.mkdir(parents=True)
    (state / "draining").touch()
    assert serve("status").returncode == 3
    like_java = [sys.executable, "-c", "input()", f"-Djava.io.tmpdir={state}/temp", "ModelServer"]
    with subprocess.Popen(like_java, stdin=subprocess.PIPE) as process:
        (state / "pid").write_text(f"{process.pid}\n")
        done = serve("status")
        assert (done.returncode, done.stderr) == (1, "serve: stopping\n")
        assert f"already running (pid {process.pid})" in serve("start").stderr
        assert serve("run").returncode == 2
        assert serve("stop", "--grace", "1").returncode == 0
        assert process.wait(timeout=60) == -signal.SIGTERM
    assert not (state / "pid").exists()


@pytest.mark.server
def test_settings_are_in_force_as_they_are_read() -> None:
    """A colon, a continued line, TRUE, an address of the environment: the scripts ask where the server listens."""
    with tempfile.TemporaryDirectory(prefix="odd-") as folder:
        home = Path(folder)
        own, ports = own_config(home)
        (inference,) = free_ports(1)
        text = own.read_text(encoding="utf-8").replace("enable_envvars_config=true", "enable_envvars_config : TRUE")
        text = re.sub(r"(?m)^management_address=(.*:)(\d+)$", r"management_address \1\\\n  \2", text)
        own.write_text(text, encoding="utf-8")
        (home / "store").mkdir()
        options = ["--config", str(own), "--run-dir", folder]
        environment = {**activated(), "TS_INFERENCE_ADDRESS": f"http://127.0.0.1:{inference}"}

        def script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
            command = [str(ROOT / "scripts" / name), *words, *options]
            return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)

        try:
            started = script("serve.sh", "start", "--model-store", str(home / "store"))
            doctor = script("doctor.py")
            listed = script("models.py", "list")
        finally:
            stopped = script("serve.sh", "stop")
    assert started.returncode == 0, started.stderr
    assert f"inference http://127.0.0.1:{inference} " in started.stderr
    assert f"management http://127.0.0.1:{ports['management_address']} " in started.stderr
    assert "has no models" in doctor.stderr
    assert not re.search("^.*error", doctor.stdout, re.MULTILINE), doctor.stdout
    assert (listed.returncode, "no model is registered" in listed.stderr) == (0, True)
    assert stopped.returncode == 0


def changed(mar: Path, name: str, store: Path, file: str, content: bytes | None) -> None:
    """Copy an archive under another name with one file changed, or left out."""
    with zipfile.ZipFile(mar) as source, zipfile.ZipFile(store / f"{name}.mar", "w") as target:
        for entry in source.namelist():
            packed = source.read(entry)
            if entry == "MAR-INF/MANIFEST.json":
                packed = packed.replace(b'"tiny"', f'"{name}"'.encode())
            if entry != file or content is not None:
                target.writestr(entry, content or packed if entry == file else packed)


@pytest.mark.server
def test_a_start_beside_a_running_server_says_what_it_lacks(mar: Path) -> None:
    """What was named is served, or the command fails: it named a model that the running server never loaded."""
    with tempfile.TemporaryDirectory(prefix="again-") as folder:
        (store := Path(folder) / "store").mkdir()
        for name in ("tiny", "other"):
            shutil.copy(mar, store / f"{name}.mar")
        own, _ = own_config(Path(folder))
        options = ["--config", str(own), "--run-dir", folder]

        def serve(command: str, *words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [str(ROOT / "scripts" / "serve.sh"), command, *options, *words],
                capture_output=True,
                text=True,
                check=False,
                env=activated(),
            )

        start = ("start", "--server", "standalone", "--model-store", str(store))
        try:
            assert serve(*start, "--models", "tiny").returncode == 0
            for words in ([], ["--models", "tiny"]):
                again = serve(*start, *words)
                assert (again.returncode, "already running" in again.stderr) == (0, True)
            lacking = serve(*start, "--models", "tiny", "other")
            assert lacking.returncode == 2
            assert "other.mar is not registered: scripts/models.py register adds it" in lacking.stderr
            assert "not every one of --models is ready" in lacking.stderr
            another = serve("start", "--server", "torchserve")
            assert another.returncode == 2
            assert "the running server is standalone, not torchserve: scripts/serve.sh stop first" in another.stderr
        finally:
            serve("stop")


@pytest.mark.server
def test_a_broken_archive_ends_the_server(mar: Path) -> None:
    """In the foreground, as in a container: each is named with its reason, and the process ends within a minute."""
    with tempfile.TemporaryDirectory(prefix="broken-") as folder:
        store, home = Path(folder) / "store", Path(folder)
        store.mkdir()
        content = mar.read_bytes()
        (store / "truncated.mar").write_bytes(content[: len(content) // 2])
        changed(mar, "weightless", store, "model/model.safetensors", None)
        changed(mar, "other", store, "model/tokenizer.json", b"{}")
        changed(mar, "misspelt", store, "model-config.yaml", b"minWorkers: 1\nhandler:\n  topk: 1\n")
        own, _ = own_config(home)
        (home / "run").mkdir()
        (home / "run" / "pid").write_text(f"{os.getpid()}\n")  # stale: no obstacle
        words = ["--config", str(own), "--run-dir", folder, "--model-store", str(store), "--models", "all"]
        began = time.monotonic()
        done = subprocess.run(
            [str(ROOT / "scripts" / "serve.sh"), "run", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        took = time.monotonic() - began
    print(f"{took:.0f} s")
    assert done.returncode == 1
    for reason in (
        r"truncated.mar could not be registered: \w",
        r"weightless 1.0 is not ready: .*model/model.safetensors is missing from the archive: pack again",
        r"other 1.0 is not ready: .*model/tokenizer.json is not the file that was packed",
        r"misspelt( 1.0 is not ready|.mar could not be registered): .*unknown setting handler.topk: did you mean",
        r"ending: not every model of --models became ready",
    ):
        assert re.search(reason, done.stderr), done.stderr
    assert took < 60 or os.getloadavg()[0] > 3, "on a machine that does nothing else"
