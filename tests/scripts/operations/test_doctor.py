"""scripts/doctor.py: what is wrong is found, each with what to do, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from transformers import AlbertConfig, AlbertForSequenceClassification

from handler.config import ModelConfig
from handler.protocol import JSON
from scripts import doctor
from scripts.archives.build import ArchiveContents, build
from scripts.archives.signing import sign
from scripts.client.ports import PORTS, free_ports
from scripts.operations import inventory
from tests.support.fake_server import NO_PID, FakeServer, worker, write_archive
from tests.support.families import FAMILIES
from tests.support.key_pairs import key_pair
from tests.support.samples import ROOT, MakeModel

Diagnose = Callable[..., tuple[int, JSON]]
KEYLESS = "error: inference_address is open to other machines (0.0.0.0:1) without keys"
CONFIG = (ROOT / "config.properties").read_text(encoding="utf-8")


@pytest.fixture
def diagnose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """Return a runner of the script over settings on free ports: exit code and report."""
    for name in [name for name in os.environ if name.startswith(("TS_", "PYTHONPATH", "OMP_", "JAVA_HOME"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("scripts.operations.inventory.usable_cores", lambda: 2)
    (tmp_path / "store").mkdir(exist_ok=True)
    own = {
        name: f"http://127.0.0.1:{port}" if "address" in name else str(port)
        for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)
    }

    def run(
        settings: Mapping[str, str] | None = None, kind: str = "torchserve", **environment: object
    ) -> tuple[int, JSON]:
        config = tmp_path / "own.properties"
        lines = [f"{key}={value}" for key, value in (own | dict(settings or {})).items()]
        config.write_text("\n".join([CONFIG, *lines]))
        words = ["--config", str(config), "--run-dir", str(tmp_path), "--model-store", str(tmp_path / "store")]
        monkeypatch.setattr(sys, "argv", ["doctor.py", "--json", "--server", kind, *words])
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, str(value))
            code = doctor.main()
        report = json.loads(capsys.readouterr().out)
        assert all(finding["do"] for finding in report["findings"])
        return code, report

    return run


def findings_of(report: JSON) -> list[str]:
    """Return every finding as a line."""
    return [f"{finding['level']}: {finding['what']}" for finding in report["findings"]]


def test_nothing_is_wrong_with_this_repository(diagnose: Diagnose, tmp_path: Path) -> None:
    """No archive yet and no server: no reason to warn."""
    code, report = diagnose()
    assert code == 0
    assert findings_of(report) == [f"note: no archive in {tmp_path / 'store'}"]
    assert report["settings"]["max_request_size"] == {"value": "6553500", "from": "own.properties"}
    assert report["settings"]["default_response_timeout"] == {"value": "120", "from": "TorchServe's default"}
    assert report["versions"]["torchserve"] == "0.12.0"
    assert not report["server"]["running"]


@pytest.mark.parametrize(
    ("settings", "code", "finding"),
    [
        ({"job_queue_sise": "5"}, 1, "warning: own.properties: job_queue_sise is ignored"),
        ({"decode_input_request": "true"}, 2, "error: decode_input_request is not false: no model will load"),
        ({"metrics_mode": "log"}, 1, "warning: metrics_mode is not prometheus: the metrics port stays empty"),
        ({"token_expiration_min": "60"}, 1, "warning: keys expire after 60 minutes"),
        (
            {"token_expiration_min": "never"},
            1,
            "warning: token_expiration_min is 'never', no number: keys expire after 60 minutes",
        ),
        ({"enable_model_api": "false"}, 0, "note: models cannot be registered or unregistered"),
        (
            {"inference_address": "http://0.0.0.0:1", "disable_token_authorization": "true"},
            2,
            "error: inference_address is open to other machines (0.0.0.0:1) without keys",
        ),
        (
            {"grpc_management_address": "0.0.0.0", "grpc_management_port": "1"},  # noqa: S104
            1,
            "warning: grpc_management_port is open to other machines (0.0.0.0:1): it can change what is served",
        ),
        (
            {"metrics_address": "http://0.0.0.0:1"},
            0,
            "note: metrics_address is open to other machines (0.0.0.0:1), and asks for no key",
        ),
        (
            {"metrics_address": "http://[::]:1"},
            2,
            "error: own.properties: metrics_address is 'http://[::]:1', no http://HOST:PORT: TorchServe does not start",
        ),
        (
            {"metrics_address": "http://127.0.0.1:1 "},
            2,
            "error: own.properties: metrics_address is 'http://127.0.0.1:1 ', no http://HOST:PORT: "
            "a blank at its end counts",
        ),
        (
            {"number_of_netty_threads": "4 "},
            2,
            "error: own.properties: number_of_netty_threads is '4 ', not a whole number: a blank at its end counts",
        ),
        (
            {"enable_model_api": "true "},
            1,
            "warning: own.properties: enable_model_api is 'true ', which is false: a blank at its end counts",
        ),
        ({"enable_model_api": "true "}, 1, "note: models cannot be registered or unregistered"),
        ({"decode_input_request": "FALSE"}, 2, "error: decode_input_request is not false: no model will load"),
        (
            {"model_store": "$$NOT_SET$$"},
            2,
            "error: own.properties: model_store needs the environment variable NOT_SET, which is not set: "
            "TorchServe does not start",
        ),
        ({"disable_token_authorization": "TRUE", "inference_address": "http://0.0.0.0:1"}, 2, KEYLESS),
    ],
)
def test_settings(diagnose: Diagnose, settings: Mapping[str, str], code: int, finding: str) -> None:
    """Each mistake alone; the exit code is that of the worst."""
    got, report = diagnose(settings)
    assert finding in findings_of(report)
    assert got == code


@pytest.mark.parametrize(
    ("settings", "findings"),
    [
        ({"metrics_mode": "log", "decode_input_request": "true", "grpc_management_address": "0.0.0.0"}, []),  # noqa: S104
        (
            {"keystore": "key.p12"},
            ["error: own.properties: the standalone server does not start with keystore"],
        ),
        (
            {"token_expiration_min": "never"},
            ["error: token_expiration_min is 'never', no number: the server does not start"],
        ),
        (
            {"management_address": "http://0.0.0.0:1"},
            ["warning: management_address is open to other machines (0.0.0.0:1): it can change what is served"],
        ),
    ],
)
def test_settings_of_the_standalone_server(
    diagnose: Diagnose, settings: Mapping[str, str], findings: list[str]
) -> None:
    """What is about Java and gRPC alone is no reason to warn; Java need not be there."""
    code, report = diagnose(settings, "standalone", JAVA_HOME="/nowhere", PYTHONPATH="/x")
    assert [line for line in findings_of(report) if "no archive" not in line] == findings
    assert code == max((doctor.EXIT_CODES[line.partition(":")[0]] for line in findings), default=0)
    assert "torchserve" not in report["versions"]
    assert "uvicorn" in report["versions"]
    assert report["server"]["kind"] == "standalone"


def test_an_install_without_pytorch(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held against its own list, and what it cannot do is noted."""
    assert "torch" in diagnose({}, "standalone")[1]["versions"]
    monkeypatch.setattr("handler.torch_presence.IS_INSTALLED", False)
    code, report = diagnose({}, "standalone")
    assert code == 0
    assert "torch" not in report["versions"]
    assert "transformers" in report["versions"]
    noted = "note: no PyTorch: archives of the BERT family are served, explanations and other models are refused"
    assert noted in findings_of(report)


def test_archives_that_need_pytorch_where_there_is_none(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mar: Path, make_model: MakeModel
) -> None:
    """They are named; those that are served without it are not."""
    store = tmp_path / "store"
    albert = {"architecture": AlbertForSequenceClassification, "config_class": AlbertConfig, **FAMILIES["Albert"]}
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    build(ArchiveContents(make_model(**albert), "albert", "1.0", settings), store)
    shutil.copy(mar, store)
    assert not [line for line in findings_of(diagnose({}, "standalone")[1]) if "PyTorch" in line]
    monkeypatch.setattr("handler.torch_presence.IS_INSTALLED", False)
    code, report = diagnose({}, "standalone")
    assert code == 2
    named = [line for line in findings_of(report) if line.startswith("error")]
    assert named == ["error: albert.mar: this model is computed by PyTorch, which is not installed: it is refused"]
    assert report["findings"][0]["do"] == "run scripts/setup.sh --lean"


def test_archives_on_the_standalone_server(diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process has all models: no workers, no batches of requests."""
    for name in ("first", "second"):
        settings = "minWorkers: 2\nbatchSize: 50\nhandler: {threads: 1}"
        write_archive(tmp_path / "store" / f"{name}.mar", name, config=settings)
    monkeypatch.setattr("scripts.operations.inventory._memory", lambda: 900_000_000)
    assert findings_of(diagnose({"job_queue_size": "20"}, "standalone")[1]) == []
    assert len(findings_of(diagnose({"job_queue_size": "20"})[1])) == 4


def test_the_server_that_is_installed_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none runs and none is named."""
    monkeypatch.delenv("SERVE_SERVER", raising=False)
    assert inventory._default_kind() == "torchserve"
    monkeypatch.setattr(inventory, "find_spec", lambda _: None)
    assert inventory._default_kind() == "standalone"
    monkeypatch.setenv("SERVE_SERVER", "torchserve")
    assert inventory._default_kind() == "torchserve"


def test_the_environment(diagnose: Diagnose) -> None:
    """What wins, what is ignored, what changes the code or the speed."""
    code, report = diagnose(
        PYTHONPATH="/x", OMP_WAIT_POLICY="ACTIVE", JAVA_HOME="/nowhere", TS_METRICS_MODE="log", TS_JOB_SIZE="1"
    )
    assert code == 2
    assert report["settings"]["metrics_mode"] == {"value": "log", "from": "TS_METRICS_MODE"}
    assert [line for line in findings_of(report) if "archive in" not in line] == [
        "error: no Java at /nowhere/bin/java",
        "warning: TS_JOB_SIZE in the environment is ignored",
        "warning: metrics_mode is not prometheus: the metrics port stays empty",
        "warning: PYTHONPATH is set: TorchServe puts it before the code inside an archive",
        "warning: threads spin while they wait",
    ]
    ignored = diagnose({"enable_envvars_config": "false"}, TS_METRICS_MODE="log")[1]
    assert "warning: TS_METRICS_MODE in the environment is ignored" in findings_of(ignored)


def test_passwords_are_not_shown(diagnose: Diagnose) -> None:
    """Neither of the file nor of the environment."""
    report = diagnose({"keystore_pass": "hunter2"}, TS_KEYSTORE_PASS="hunter3")[1]
    assert "hunter" not in json.dumps(report)


def test_archives(diagnose: Diagnose, tmp_path: Path) -> None:
    """Broken, misnamed, misconfigured, twice there, or with more threads than there are cores."""
    store = tmp_path / "store"
    write_archive(store / "good.mar", "good", config="minWorkers: 2\nresponseTimeout: 60\nhandler: {threads: 1}")
    assert diagnose()[0] == 0
    content = (store / "good.mar").read_bytes()
    (store / "cut.mar").write_bytes(content[: len(content) // 2])
    write_archive(store / "hash.mar", "hash", **{"model/config.json": "0" * 64})
    write_archive(store / "key.mar", "key", config="handler: {topk: 1}")
    write_archive(store / "file.mar", "good")
    write_archive(store / "queue.mar", "queue", config="batchSize: 50\nhandler: {threads: 1}")
    code, report = diagnose({"job_queue_size": "20", "default_response_timeout": "30"})
    findings = "\n".join(findings_of(report))
    assert code == 2
    assert "error: cut.mar: " in findings
    assert "cut short" in findings
    assert "error: hash.mar: model/config.json is not the file that was packed (SHA-256 differs)" in findings
    assert "error: key.mar: unknown setting handler.topk: did you mean handler.top_k?" in findings
    assert "warning: file.mar holds good 1.0" in findings
    assert "warning: 2 archives hold good 1.0" in findings
    assert "warning: queue.mar: its queue holds 20 requests, less than a batch of 50" in findings
    assert "note: good.mar: default_response_timeout=30 is not obeyed, its own 60 s is" in findings
    assert "warning: 5 threads of workers (file 2 + good 2 + queue 1) on 2 cores" in findings
    assert {archive["file"]: archive["version"] for archive in report["archives"]}["good.mar"] == "1.0"


def test_answers_larger_than_the_server_sends(diagnose: Diagnose, tmp_path: Path) -> None:
    """1,000 texts with every label of a model: TorchServe would end the worker of such a valid request."""
    labels = {str(index): f"label {index:04}" for index in range(3000)}
    config = json.dumps({"id2label": labels})
    file = write_archive(tmp_path / "store" / "many.mar", "many", config="handler: {threads: 1}")
    with zipfile.ZipFile(file) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(entries["manifest.json"]) | {"task": "text-classification"}
    manifest["files"]["model/config.json"] = hashlib.sha256(config.encode()).hexdigest()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in (entries | {"manifest.json": json.dumps(manifest), "model/config.json": config}).items():
            packed.writestr(name, content)
    warning = "warning: many.mar: 1000 texts with all 3000 labels are up to 168 MB, more than max_response_size"
    assert f"{warning} (134 MB)" in findings_of(diagnose()[1])
    assert f"{warning} (100 MB)" in findings_of(diagnose({"max_response_size": "100000000"})[1])
    assert not [line for line in findings_of(diagnose({"max_response_size": "170000000"})[1]) if "1000 texts" in line]


def test_disk_and_memory(diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roughly."""
    write_archive(tmp_path / "store" / "good.mar", "good", config="minWorkers: 2\nhandler: {threads: 1}")
    monkeypatch.setattr("scripts.operations.inventory._memory", lambda: 900_000_000)
    monkeypatch.setattr("scripts.operations.inventory._free_disk", lambda _: 100)
    assert [line.partition(", ")[0] for line in findings_of(diagnose()[1])] == [
        "warning: 0.0 GB of disk are free",
        "warning: all workers need about 1.0 GB of memory",
    ]


def test_an_archive_that_a_start_would_refuse(diagnose: Diagnose, tmp_path: Path, mar: Path) -> None:
    """By its signature or its age, where there is a key: known before the restart, not by it."""
    shutil.copy(mar, tmp_path / "store" / "tiny.mar")
    private, public = key_pair(tmp_path, "mine")
    refused = "error: the next start refuses an archive: "
    assert not any(refused in line for line in findings_of(diagnose()[1]))
    assert any(
        f"{refused}tiny.mar is not signed" in line for line in findings_of(diagnose(ARCHIVE_PUBLIC_KEY=public)[1])
    )
    sign(tmp_path / "store" / "tiny.mar", private)
    assert not any(refused in line for line in findings_of(diagnose(ARCHIVE_PUBLIC_KEY=public)[1]))
    report = diagnose(ARCHIVE_PUBLIC_KEY=public, ARCHIVE_NOT_OLDER_THAN="2026-11-01T00:00:00Z")[1]
    assert any("ARCHIVE_NOT_OLDER_THAN demands it" in line for line in findings_of(report))


def test_what_an_earlier_server_left(diagnose: Diagnose, tmp_path: Path) -> None:
    """A pid file that names nobody, or somebody else: here, this test."""
    (tmp_path / "run").mkdir()
    for number in (NO_PID, os.getpid()):
        (tmp_path / "run" / "pid").write_text(f"{number}\n")
        assert f"warning: {tmp_path}/run/pid names no server of this folder" in findings_of(diagnose()[1])


def test_a_port_of_somebody_else(diagnose: Diagnose, fake_server: FakeServer) -> None:
    """Who listens is no server that takes our keys."""
    address = fake_server.config.read_text().partition("inference_address=")[2].split()[0]
    (fake_server.run_dir / "key_file.json").unlink()
    code, report = diagnose({"management_address": address})
    assert code == 2
    assert f"error: something else listens on management_address {address.rsplit(':', 1)[1]}" in findings_of(report)


def test_a_running_server(
    fake_server: FakeServer, diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it serves is held against the archives."""
    text = fake_server.config.read_text()
    addresses = {key: text.partition(key)[2].split("\n")[0].strip(" =") for key in ("inference_address", "management_")}
    own = {"inference_address": addresses["inference_address"], "management_address": addresses["management_"][9:]}
    own["management_address"] = "http" + text.partition("management_address = http")[2].split("\n")[0]
    write_archive(fake_server.store / "toy.mar", "toy", "2.0", config="handler: {threads: 1}")
    fake_server.register("toy-3.0.mar")
    fake_server.models["toy", "3.0"]["workers"] = [worker(NO_PID, "UNLOADED")]
    code, report = diagnose(own)
    assert code == 2
    assert [line for line in findings_of(report) if not line.startswith("note")] == [
        "error: toy 3.0 is not ready: loading",
        "warning: toy 1.0 serves, but a restart would load 2.0 from toy.mar",
    ]
    assert [model["state"] for model in report["server"]["models"]] == ["ready", "loading"]
    fake_server.models["toy", "3.0"]["modelUrl"] = "unpacked"
    in_place = "warning: toy 3.0 is a folder that TorchServe serves in place: writing into its files changes answers"
    assert in_place in findings_of(diagnose(own)[1])
    words = [
        "--config",
        str(fake_server.config),
        "--run-dir",
        str(fake_server.run_dir),
        "--model-store",
        str(fake_server.store),
    ]
    monkeypatch.setattr(sys, "argv", ["doctor.py", *words])
    monkeypatch.setenv("COLUMNS", "200")
    assert doctor.main() == 2
    captured = capsys.readouterr()
    assert "toy 3.0 is not ready: loading" in captured.out
    assert "the running server" in captured.err


def test_a_running_server_without_models(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers, and has none: that is no reason to say that no server answers."""
    fake_server.default.clear()
    fake_server.models.clear()
    words = ["--config", str(fake_server.config), "--run-dir", str(fake_server.run_dir)]
    monkeypatch.setattr(sys, "argv", ["doctor.py", *words])
    doctor.main()
    assert "the running server has no models" in capsys.readouterr().err
    fake_server.stop()
    doctor.main()
    assert "no server answers" in capsys.readouterr().err
