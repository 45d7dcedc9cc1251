"""scripts/models.py: what is shown, when a model counts as ready, why one does not become ready."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from scripts import models
from scripts.cli.console import ScriptError
from scripts.client.http import Management
from scripts.client.server import NotRunning, Server, UnknownModel
from scripts.operations.readiness import FailureLog
from tests.support.fake_server import NO_PID, FakeServer, worker

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a runner of the script in this process: exit code, standard output, standard error."""

    def run_script(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["models.py", *words, *fake_server.options])
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        code = models.main() or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_script


def rows(table: str) -> list[list[str]]:
    """Return the cells of the rows of a printed table."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line.startswith("│")
    ]


def test_list(run: Run, fake_server: FakeServer) -> None:
    """Every version of every model, with its workers and state."""
    fake_server.register("toy-2.0.mar")
    fake_server.models["toy", "2.0"]["minWorkers"] = 2
    assert rows(run("list")[1]) == [
        ["toy", "1.0", "yes", "1/1", "8", "2 ms", "0", "ready"],
        ["toy", "2.0", "", "1/2", "8", "2 ms", "0", "loading"],
    ]


def test_status_is_0_when_every_model_answers(run: Run) -> None:
    """READY, and a real prediction came back."""
    assert run("status")[0] == 0
    assert run("status", "toy", "--wait")[0] == 0


def test_status_is_1_when_a_worker_is_missing(run: Run, fake_server: FakeServer) -> None:
    """Although the other one answers."""
    fake_server.models["toy", "1.0"]["minWorkers"] = 2
    code, _, err = run("status")
    assert code == 1
    assert "toy 1.0 is not ready: loading" in err


def test_status_is_1_when_no_prediction_answers(run: Run, fake_server: FakeServer) -> None:
    """Although its worker is READY."""
    fake_server.failures.append(503)
    code, _, err = run("status")
    assert code == 1
    assert "503" in err


def test_status_is_0_while_requests_fill_the_queue(run: Run, fake_server: FakeServer) -> None:
    """Overload must not take a pod away from its clients: the others would be overloaded next."""
    fake_server.failures.append(503)
    fake_server.busy = 9
    code, _, err = run("status")
    assert code == 0
    assert "requests fill its queue" in err


def test_status_is_1_without_a_model(run: Run, fake_server: FakeServer) -> None:
    """Where TorchServe's own /ping is Healthy."""
    fake_server.default.clear()
    assert run("status")[0] == 1


def test_status_is_1_when_a_wanted_model_is_missing(run: Run, fake_server: FakeServer) -> None:
    """The log tells why it could not be registered."""
    exception = "org.pytorch.serve.archive.model.InvalidModelException: Failed to parse\n\tat org.pytorch"
    fake_server.write_log(
        logger="ModelServer", thread="main", message="Failed to load model: nope.mar", error=exception
    )
    code, _, err = run("status", "toy", "nope")
    assert code == 1
    assert "nope could not be registered: Failed to parse" in err


def test_status_of_a_model_that_nobody_registered(run: Run) -> None:
    """There is no failure to look for."""
    code, _, err = run("status", "toy", "nope")
    assert code == 1
    assert "nope is not registered: scripts/models.py register adds it" in err


def test_status_of_archives(run: Run, fake_server: FakeServer) -> None:
    """By the name of the file: what is in it may be called otherwise."""
    assert run("status", "--archives", "toy.mar")[0] == 0
    exception = "org.pytorch.serve.archive.model.InvalidModelException: Failed to parse\n\tat org.pytorch"
    fake_server.write_log(logger="ModelServer", thread="main", message="Failed to load model: cut.mar", error=exception)
    code, _, err = run("status", "--archives", "toy.mar", "cut.mar")
    assert code == 1
    assert "cut.mar could not be registered: Failed to parse" in err


def test_a_full_queue_is_waited_for_while_models_load(run: Run, fake_server: FakeServer) -> None:
    """Others may ask already."""
    fake_server.failures.extend([503, 503])
    assert run("status", "--wait")[0] == 0


def test_status_is_3_without_a_server(run: Run, fake_server: FakeServer) -> None:
    """A script can tell "not running" from "not ready"."""
    fake_server.stop()
    assert run("status")[0] == 3


def test_describe(run: Run) -> None:
    """The handler's description, as JSON."""
    assert json.loads(run("describe", "toy")[1]) == {"task": "capitals"}
    with pytest.raises(UnknownModel):
        run("describe", "nope")


def test_register_passes_only_what_is_asked_for(run: Run, fake_server: FakeServer) -> None:
    """The rest is what the archive says; the call does not block the server."""
    assert run("register", "toy-2.0", "--batch-size", "4")[0] == 0
    (path,) = [path for method, path, _ in fake_server.requests if method == "POST" and path.startswith("/models")]
    assert path == "/models?url=toy-2.0.mar&synchronous=false&batch_size=4"


def test_register_scales_where_the_archive_would_win(run: Run) -> None:
    """TorchServe ignores initial_workers where the archive has minWorkers."""
    code, table, _ = run("register", "toy-2.0.mar", "--initial-workers", "3")
    assert code == 0
    assert rows(table)[0][3] == "3/3"


def test_two_that_register_at_once_each_take_their_own(
    run: Run, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else registered meanwhile is neither waited for nor shown."""
    original = fake_server.register

    def register(archive: str) -> object:
        original("another-1.0.mar")
        return original(archive)

    monkeypatch.setattr(fake_server, "register", register)
    code, table, _ = run("register", "toy-2.0", "--initial-workers", "2")
    assert code == 0
    assert [row[:2] for row in rows(table)] == [["toy", "2.0"]]
    assert len(fake_server.models["another", "1.0"]["workers"]) == 1


def test_a_model_that_fails_to_load_is_unregistered_with_the_reason(run: Run, fake_server: FakeServer) -> None:
    """The line that the handler left in the log, not a traceback."""
    with pytest.raises(ScriptError, match=r"unregistered: ConfigError: unknown setting handler\.topk$"):
        run("register", "broken-1.0")
    assert ("broken", "1.0") not in fake_server.models


def test_reasons_of_earlier_failures_are_not_repeated(run: Run, fake_server: FakeServer) -> None:
    """Only what is logged from now on counts."""
    line = {"logger": "MODEL_LOG", "thread": "W-9000-toy_2.0-stdout"}
    fake_server.write_log(**line, message="handler.errors.ModelMismatch: of yesterday")
    assert run("register", "toy-2.0")[0] == 0


def test_a_worker_that_ends_while_loading_is_noticed_without_a_log(
    run: Run, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe starts it again: another process than the first one is the sign."""
    pids = iter(range(NO_PID, NO_PID + 100))
    original = fake_server.manage

    def restart(*request: object) -> object:
        fake_server.models["toy", "1.0"]["workers"] = [worker(next(pids), "UNLOADED")]
        return original(*request)  # type: ignore[arg-type]

    monkeypatch.setattr(fake_server, "manage", restart)
    fake_server.stop()
    fake_server.run_dir = fake_server.run_dir / "again"
    fake_server.config = fake_server.run_dir / "config.properties"
    fake_server.log = fake_server.run_dir / "logs" / "server.log"
    with fake_server:
        code, _, err = run("status", "--wait")
    assert code == 1
    assert "a worker ended while it loaded" in err


def test_registering_twice_says_what_to_do(run: Run) -> None:
    """Instead of a bare conflict."""
    with pytest.raises(ScriptError, match=r"already registered.*models\.py unregister"):
        run("register", "toy-1.0")


def test_an_unknown_archive_says_where_it_should_be(run: Run) -> None:
    """Instead of a bare 404."""
    with pytest.raises(ScriptError, match=r"no nope\.mar in the server's model store"):
        run("register", "nope")


def test_versions_change_hands(run: Run, fake_server: FakeServer) -> None:
    """Register, make it the default, remove the old one; the default cannot be removed before."""
    run("register", "toy-2.0")
    with pytest.raises(ScriptError, match=r"Cannot remove default version.*models\.py default"):
        run("unregister", "toy")
    run("default", "toy", "2.0")
    run("unregister", "toy", "--version", "1.0")
    assert list(fake_server.models) == [("toy", "2.0")]


def test_only_the_default_version_is_shown_as_default(run: Run) -> None:
    """Whichever command shows it: requests without a version do not reach a version that was only registered."""
    assert rows(run("register", "toy-2.0")[1]) == [["toy", "2.0", "", "1/1", "8", "2 ms", "0", "ready"]]
    assert [row[:3] for row in rows(run("status")[1])] == [["toy", "1.0", "yes"], ["toy", "2.0", ""]]
    assert rows(run("scale", "toy", "--version", "2.0", "--min", "2")[1])[0][:4] == ["toy", "2.0", "", "2/2"]
    run("default", "toy", "2.0")
    assert [row[:3] for row in rows(run("status")[1])] == [["toy", "1.0", ""], ["toy", "2.0", "yes"]]


def test_scale(run: Run) -> None:
    """Waits until the new workers are ready; none is allowed."""
    assert rows(run("scale", "toy", "--min", "3")[1])[0][3] == "3/3"
    assert rows(run("scale", "toy", "--min", "0")[1])[0][-1] == "no workers"


def test_idle(run: Run, fake_server: FakeServer) -> None:
    """Nothing waits and no worker works; or there is no server; or the time is over."""
    assert run("idle", "--within", "5")[0] == 0
    fake_server.models["toy", "1.0"]["jobQueueStatus"]["pendingRequests"] = 1
    assert run("idle", "--within", "0.5")[0] == 1
    fake_server.stop()
    assert run("idle")[0] == 0
    with pytest.raises(NotRunning):
        run("list")


@pytest.mark.parametrize(
    "line",
    [
        b"OpenJDK 64-Bit Server VM warning: x",
        b"17",
        b"null",
        b"[]",
        b'"MODEL_LOG"',
        b"{}",
        b'{"logger": "MODEL_LOG"}',
        b'{"logger": "MODEL_LOG", "thread": null, "message": 1, "error": []}',
        b"[" * 100_000,
        b'{"logger": "MODEL_LOG", "thread": "\xff',
    ],
)
def test_a_line_that_is_no_entry_of_the_log_hides_no_reason(fake_server: FakeServer, line: bytes) -> None:
    """Java and libraries print what they like, also what happens to be JSON."""
    reason = {"logger": "MODEL_LOG", "thread": "W-0-toy_1.0-stdout", "message": "ModelMismatch: wrong", "error": ""}
    failed = {"logger": "x", "thread": "main", "message": "Failed to load model: toy.mar", "error": "Exception: cut"}
    fake_server.log.write_bytes(b"\n".join([line, json.dumps(reason).encode(), line, json.dumps(failed).encode()]))
    server = Server.read(fake_server.config, fake_server.run_dir)
    log = FailureLog(server, 0)
    toy = next(model for model in Management(server).models() if model.name == "toy")
    assert (log.of_worker(toy), log.of_archive("toy")) == ("ModelMismatch: wrong", "cut")
