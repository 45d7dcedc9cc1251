"""Another version takes over: in which order, and that any failure leaves the old version serving."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.protocol import JSON
from scripts import models
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError
from scripts.client.predictions import predicted_label, scores
from scripts.client.server import UnknownModel
from tests.support.animals import sentences
from tests.support.fake_server import FakeServer, error, write_archive
from tests.support.keyword_model import KeywordModel
from tests.support.training import write


class Script:
    """Runs scripts/models.py in this process, against a server and a store of its own."""

    def __init__(
        self, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fake_server, self.monkeypatch, self.capsys = fake_server, monkeypatch, capsys
        self.store = Store(fake_server.store)

    def run(self, *words: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["models.py", *words, *self.fake_server.options])
        self.monkeypatch.setenv("COLUMNS", "120")
        self.capsys.readouterr()
        code = models.main() or 0
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def roll(self, command: str, *words: str) -> tuple[int, str, str]:
        """Promote or roll back the model of the fake server."""
        return self.run(command, "toy", *words, "--model-store", str(self.store.folder))

    def pack(self, version: str, name: str = "toy") -> Path:
        """Write toy.mar as scripts/package.py would."""
        self.store.folder.mkdir(exist_ok=True)
        self.store.keep("toy", instead_of=version)
        return write_archive(self.store.current("toy"), name, version)

    def versions(self) -> list[str]:
        """Return what the archives of the store hold: the current one, then those that are kept."""
        current = Archive.read(self.store.current("toy")).version
        return [current, *(Archive.read(file).version for file in self.store.kept("toy").values())]

    def changes(self) -> list[str]:
        """Return what was asked of the server, but for looks at it."""
        return [
            f"{method} {path.partition('?')[0]}" for method, path, _ in self.fake_server.requests if method != "GET"
        ]


@pytest.fixture
def script(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Return a runner of the script; toy 1.0 serves, and toy.mar is its archive."""
    monkeypatch.setattr("scripts.operations.draining.PAUSE_S", 0.02)
    script = Script(fake_server, monkeypatch, capsys)
    script.pack("1.0")
    return script


def test_promote_and_rollback(script: Script, fake_server: FakeServer) -> None:
    """Beside the old version first; a prediction of each before it is trusted, or removed; and all the way back."""
    script.pack("2.0")
    assert script.roll("promote", "--version", "2.0")[0] == 0
    assert script.changes() == [
        "POST /models",
        "POST /predictions/toy/2.0",
        "PUT /models/toy/2.0/set-default",
        "POST /predictions/toy/1.0",
        "DELETE /models/toy/1.0",
    ]
    assert (fake_server.default["toy"], list(fake_server.models)) == ("2.0", [("toy", "2.0")])
    assert script.versions() == ["2.0", "1.0"]
    assert script.roll("rollback")[0] == 0
    assert (fake_server.default["toy"], list(fake_server.models)) == ("1.0", [("toy", "1.0")])
    assert script.versions() == ["1.0", "2.0"]
    assert json.loads((script.store.folder / "toy.openapi.json").read_text())["info"]["version"] == "1.0"
    assert script.roll("rollback")[0] == 0
    assert fake_server.default["toy"] == "2.0"
    assert sorted(path.name for path in script.store.folder.iterdir()) == [".kept", "toy.mar", "toy.openapi.json"]


def test_an_archive_from_elsewhere_becomes_the_one_of_the_store(script: Script, tmp_path: Path) -> None:
    """A restart loads what serves; the replaced archive is kept, other ones are not kept for ever."""
    write_archive(script.store.folder / ".kept" / "toy@0.9.mar", version="0.9")
    file = write_archive(tmp_path / "ci" / "build-7.mar", version="2.0")
    assert script.roll("promote", "--version", "2.0", "--archive", str(file))[0] == 0
    assert script.versions() == ["2.0", "1.0"]
    assert not script.store.current("toy").samefile(file)


def test_a_candidate_that_is_registered_already_is_taken(script: Script, fake_server: FakeServer) -> None:
    """After register and shadow."""
    script.pack("2.0")
    script.run("register", "toy")
    assert script.roll("promote", "--version", "2.0")[0] == 0
    assert script.changes().count("POST /models") == 1
    assert list(fake_server.models) == [("toy", "2.0")]


def test_workers_of_the_new_version(script: Script, fake_server: FakeServer) -> None:
    """As many as are asked for; fewer than the old one has are told."""
    fake_server.models["toy", "1.0"]["minWorkers"] = 2
    fake_server.models["toy", "1.0"]["workers"] *= 2
    script.pack("2.0")
    assert "note: 2.0 has 1 worker, 1.0 has 2" in script.roll("promote", "--version", "2.0")[2]
    script.roll("rollback", "--workers", "3")
    assert len(fake_server.models["toy", "1.0"]["workers"]) == 3


@pytest.mark.parametrize(
    ("packed", "version", "complaint"),
    [
        ("2.0", "2.1", r"holds toy 2\.0, not toy 2\.1: .*--archive"),
        ("1.0", "1.0", r"toy 1\.0 is the version that serves already"),
        ("6.6.6", "6.6.6", r"toy 6\.6\.6 is not ready: ConfigError: unknown setting handler\.topk; toy 1\.0 goes on"),
    ],
)
def test_what_cannot_be_promoted(
    script: Script, fake_server: FakeServer, packed: str, version: str, complaint: str
) -> None:
    """The reason, and that the old version goes on."""
    script.pack(packed)
    with pytest.raises(ScriptError, match=complaint):
        script.roll("promote", "--version", version)
    assert (fake_server.default["toy"], list(fake_server.models)) == ("1.0", [("toy", "1.0")])


def test_archives_that_cannot_be_read(script: Script, tmp_path: Path) -> None:
    """Missing, cut short, without a manifest, of another model."""
    cut = tmp_path / "cut.mar"
    cut.write_bytes(script.store.current("toy").read_bytes()[:-30])
    other = write_archive(tmp_path / "other.mar", "other", "2.0")
    for file, complaint in ((tmp_path / "no.mar", "no archive at"), (cut, "cut short"), (other, "holds other 2.0")):
        with pytest.raises(ScriptError, match=rf"{complaint}.*; toy 1\.0 goes on serving"):
            script.roll("promote", "--version", "2.0", "--archive", str(file))


def test_a_model_that_nobody_serves(script: Script) -> None:
    """Is registered first."""
    with pytest.raises(UnknownModel):
        script.run("promote", "nope", "--version", "2.0")


@pytest.mark.parametrize(
    "broken",
    [("POST", "/models"), ("PUT", "/models/toy/2.0/set-default"), "prediction"],
    ids=["register", "default", "prediction"],
)
def test_a_step_that_fails_leaves_the_old_version(script: Script, fake_server: FakeServer, broken: Any) -> None:
    """And takes the new one away again."""
    script.pack("2.0")
    if broken == "prediction":
        fake_server.failures.append(400)
    else:
        fake_server.broken[broken] = 500
    with pytest.raises(ScriptError, match=r"toy 1\.0 goes on serving"):
        script.roll("promote", "--version", "2.0")
    assert (fake_server.default["toy"], list(fake_server.models)) == ("1.0", [("toy", "1.0")])


def test_an_answer_that_got_lost_hands_back(
    script: Script, fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server made 2.0 the default, but nobody heard of it."""
    script.pack("2.0")
    original = fake_server.manage

    def manage(method: str, path: str, *rest: Any) -> tuple[int, JSON]:
        answered = original(method, path, *rest)
        return (500, error(500, "X", "lost")) if path == "/models/toy/2.0/set-default" else answered

    monkeypatch.setattr(fake_server, "manage", manage)
    fake_server.stop()
    fake_server._servers = [
        fake_server._serve(fake_server.predict, "inferKey"),
        fake_server._serve(fake_server.manage, "manageKy"),
    ]
    ports = [server.server_port for server in fake_server._servers]
    fake_server.config.write_text(
        f"inference_address=http://127.0.0.1:{ports[0]}\nmanagement_address=http://127.0.0.1:{ports[1]}\n"
    )
    with pytest.raises(ScriptError, match=r"lost; toy 1\.0 goes on serving"):
        script.roll("promote", "--version", "2.0")
    assert (fake_server.default["toy"], list(fake_server.models)) == ("1.0", [("toy", "1.0")])


def test_a_version_with_requests_is_not_removed(script: Script, fake_server: FakeServer) -> None:
    """It gets its time; when that is over it stays, and how to remove it is told."""
    script.pack("2.0")
    fake_server.busy = 3
    assert script.roll("promote", "--version", "2.0")[0] == 0
    script.pack("3.0")
    fake_server.models["toy", "2.0"]["jobQueueStatus"]["pendingRequests"] = 1
    code, _, err = script.roll("promote", "--version", "3.0", "--within", "0.5")
    assert code == 1
    assert "later: scripts/models.py unregister toy --version 2.0" in err
    assert (fake_server.default["toy"], sorted(fake_server.models)) == ("3.0", [("toy", "2.0"), ("toy", "3.0")])


def test_an_old_version_that_cannot_be_unregistered_stays(script: Script, fake_server: FakeServer) -> None:
    """The new one serves."""
    script.pack("2.0")
    fake_server.broken["DELETE", "/models/toy/1.0"] = 500
    code, _, err = script.roll("promote", "--version", "2.0")
    assert (code, fake_server.default["toy"]) == (1, "2.0")
    assert "could not be unregistered" in err


def test_which_version_was_before(script: Script) -> None:
    """None, one, or several: then it must be named."""
    with pytest.raises(ScriptError, match=r"keeps no earlier version of toy: .*--archive"):
        script.roll("rollback")
    for version in ("0.8", "0.9"):
        write_archive(script.store.folder / ".kept" / f"toy@{version}.mar", version=version)
    with pytest.raises(ScriptError, match=r"keeps 0\.8, 0\.9 of toy: choose with --version"):
        script.roll("rollback")
    assert script.roll("rollback", "--version", "0.8")[0] == 0
    assert script.versions() == ["0.8", "1.0"]


@pytest.fixture
def animals(fake_server: FakeServer, tmp_path: Path) -> Path:
    """Let toy 1.0 and 2.0 answer animals by their verbs, all right; return 200 labelled texts."""
    fake_server.description = KeywordModel().description
    fake_server.answers["1.0"] = fake_server.answers["2.0"] = KeywordModel().ranking
    rows = [{"text": f"{text} {number}", "label": label} for number, (text, label) in enumerate(sentences(200))]
    (tmp_path / "gate.yaml").write_text("score: 0.8\nregression: 0.05\n")
    return write(tmp_path / "animals.csv", rows)


def regressed(text: str) -> JSON:
    """Answer as 1.0 does, wrongly in one text of ten."""
    return KeywordModel(lambda text: text.endswith("7")).ranking(text)


def test_the_gate_refuses_a_regression(
    script: Script, fake_server: FakeServer, animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.0 has enough right answers, but fewer than 1.0: 1.0 goes on serving, and 2.0 is unregistered again."""
    monkeypatch.chdir(animals.parent)
    script.pack("2.0")
    fake_server.answers["2.0"] = regressed
    options = ["promote", "--version", "2.0", "--gate", "gate.yaml", "--data", str(animals)]
    with pytest.raises(
        ScriptError, match=r"toy 2\.0 does not keep the limits of gate\.yaml: .*; toy 1\.0 goes on serving"
    ):
        script.roll(*options)
    assert (fake_server.default["toy"], list(fake_server.models)) == ("1.0", [("toy", "1.0")])
    report = json.loads((animals.parent / "evaluation" / "toy-2.0" / "report.json").read_text())
    assert [check["name"] for check in report["gate"] if not check["passed"]] == ["regression"]
    assert report["against"]["model"]["version"] == "1.0"


def test_the_gate_lets_an_equal_version_pass(script: Script, fake_server: FakeServer, animals: Path) -> None:
    """2.0 answers as 1.0 does and takes over."""
    script.pack("2.0")
    gate, output = animals.parent / "gate.yaml", animals.parent / "report"
    options = ["--gate", str(gate), "--data", str(animals), "--evaluation-output", str(output)]
    code, _, err = script.roll("promote", "--version", "2.0", *options)
    assert (code, fake_server.default["toy"]) == (0, "2.0")
    assert "passed: regression is 1" in err
    assert (output / "report.html").is_file()


def test_a_gate_that_cannot_be_held_is_refused_before_anything_changes(script: Script, animals: Path) -> None:
    """Limits without data, data without limits, a limit that means nothing."""
    script.pack("2.0")
    gate = animals.parent / "gate.yaml"
    for options, message in (
        (["--gate", str(gate)], "--gate needs labelled examples"),
        (["--data", str(animals)], "--data without --gate"),
    ):
        with pytest.raises(ScriptError, match=message):
            script.roll("promote", "--version", "2.0", *options)
    gate.write_text("accuracy: 0.9\n")
    with pytest.raises(ScriptError, match="accuracy is no limit"):
        script.roll("promote", "--version", "2.0", "--gate", str(gate), "--data", str(animals))
    assert script.changes() == []


def test_shadow_on_labelled_texts_says_which_version_is_right(
    script: Script, fake_server: FakeServer, animals: Path
) -> None:
    """McNemar's test, calibration and slices of both; exit code 1 only where the candidate is worse beyond chance."""
    fake_server.register("toy-2.0.mar")
    options = ["--data", str(animals), "--evaluation-output", str(animals.parent / "report")]
    assert script.run("shadow", "toy", "--candidate", "2.0", *options)[0] == 0
    fake_server.answers["2.0"] = regressed
    fake_server.description = {**fake_server.description, "model_hash": "another"}
    code, out, err = script.run("shadow", "toy", "--candidate", "2.0", *options)
    assert code == 1
    assert "only 2.0 is right on 0, only 1.0 on 20: McNemar's p = " in err
    assert "calibration error" in out
    code, out, _ = script.run("shadow", "toy", "--candidate", "2.0", *options, "--json")
    compared = json.loads(out)
    assert (code, compared["mcnemar"]["only_second"], compared["changed_predictions"]["value"]) == (1, 20, 0.1)


def labels(label: str, score: float) -> Any:
    """Make what answers every text with two labels."""
    return lambda _: [{"label": label, "score": score}, {"label": "other", "score": 1 - score}]


def test_shadow(script: Script, fake_server: FakeServer, tmp_path: Path) -> None:
    """Changed predictions, drift of scores, errors and times, without a text."""
    fake_server.register("toy-2.0.mar")
    fake_server.answers["1.0"] = labels("good", 0.75)

    def candidate(text: str) -> JSON:
        if text == "secret 3":
            return error(422, "InvalidInput", "no")
        return labels("good" if text != "secret 2" else "bad", 0.5)(text)

    fake_server.answers["2.0"] = candidate
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text("".join(json.dumps({"text": f"secret {number}"}) + "\n" for number in range(1, 5)))
    code, out, _ = script.run("shadow", "toy", "--candidate", "2.0", "--jsonl", str(recorded), "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["questions"], report["compared"], report["flipped"], report["flipped_lines"]) == (4, 3, 1, [2])
    assert report["flips"] == [{"from": "good", "to": "bad", "count": 1}]
    assert report["score_drift"] == {"mean": 0.25, "p95": 0.25, "max": 0.25}
    assert report["failed_only_for_candidate_lines"] == [3]
    assert report["versions"]["2.0"]["errors"] == {"InvalidInput": 1}
    assert report["versions"]["1.0"]["p50_ms"] > 0
    code, table, lines = script.run("shadow", "toy", "--candidate", "2.0", "--jsonl", str(recorded))
    assert "1 of 3" in table
    assert "1 from good to bad" in lines
    assert "changed: lines 2" in lines
    assert "secret" not in out + table + lines
    fake_server.answers["2.0"] = fake_server.answers["1.0"]
    assert script.run("shadow", "toy", "--candidate", "2.0", "--jsonl", str(recorded))[0] == 0
    with pytest.raises(UnknownModel):
        script.run("shadow", "toy", "--candidate", "3.0", "--jsonl", str(recorded))


@pytest.mark.parametrize(
    ("answer", "label", "numbers"),
    [
        ([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.1}], "a", [0.9, 0.1]),
        ([[{"label": "a", "score": 0.9}], [{"label": "b", "score": 0.8}]], ("a", "b"), [0.9, 0.8]),
        ({"answer": "x", "score": 0.5, "start": 1}, (("answer", "x"), ("start", 1)), [0.5]),
        ([0.25, [0.5]], (None, (None,)), [0.25, 0.5]),
        ([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.2}], (("index", 1),), [0.9, 0.2]),
        ([{"entity_group": "X", "score": 0.9}], ((("entity_group", "X"),),), [0.9]),
        (
            [{"entity": "B", "score": 0.9, "start": 0}, {"entity": "I", "score": 0.5, "start": 2}],
            ((("entity", "B"), ("start", 0)), (("entity", "I"), ("start", 2))),
            [0.9, 0.5],
        ),
    ],
)
def test_answers_of_every_task_can_be_compared(answer: JSON, label: JSON, numbers: list[float]) -> None:
    """What they say, and their numbers, each under a name of its own."""
    assert predicted_label(answer) == label
    score_of = dict(scores(answer))
    assert list(score_of.values()) == numbers
    if isinstance(answer, list) and label == "a":
        assert dict(scores(answer[::-1])) == score_of
