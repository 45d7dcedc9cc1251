"""Commands, gateway and monitoring against a live TorchServe."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import requests

from handler.config import ModelConfig, usable_cores
from scripts.archives.build import ArchiveContents, build
from scripts.archives.score_calibration import ScoreExamples
from scripts.archives.store import Store
from scripts.benchmark.request_time import RequestTime
from tests.reliability.versions import rolled
from tests.support.explanations import PageReader, explain
from tests.support.gateway import GATEWAY_METRICS, running
from tests.support.live import COUNTED_S, Live
from tests.support.monitoring import OF_CALIBRATED_MODELS, QUERIES, names
from tests.support.samples import ROOT, TEXTS, MakeModel
from tests.support.texts import short_texts

pytestmark = pytest.mark.server


def test_a_version_comes_and_goes_under_load(each_server: Live, model_folder: Path, make_model: MakeModel) -> None:
    """1.0, 2.0 and back under load: every request gets the right answer, of exactly one version (F4)."""
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    settings = replace(settings, handler=replace(settings.handler, threads=1))
    folders = (model_folder, make_model(labels=("red", "green", "blue", "grey")))
    recorded = each_server.run_dir / "recorded.jsonl"
    recorded.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    shadows: list[tuple[int, str]] = []

    def compare() -> None:
        each_server.script("models.py", "register", "rolling")
        command = ["shadow", "rolling", "--candidate", "2.0", "--jsonl", str(recorded), "--json"]
        shadow = each_server.script("models.py", *command, check=False)
        shadows.append((shadow.returncode, shadow.stdout))

    seen = rolled(each_server, folders, settings, repeats=1, rate=40, before=compare)
    print(seen.summary())
    assert seen.holds, seen.violations
    ((code, report),) = shadows
    comparison = json.loads(report)
    assert (code, comparison["flipped"], comparison["compared"]) == (1, len(TEXTS), len(TEXTS))
    assert Store(each_server.store).kept("rolling").keys() == {"2.0"}
    each_server.script("models.py", "unregister", "rolling")


def test_the_doctor_finds_no_error(each_server: Live) -> None:
    """Its environment and models are seen; nothing about it is an error."""
    done = each_server.script("doctor.py", "--json", check=False)
    report = json.loads(done.stdout)
    findings = [(finding["level"], finding["what"]) for finding in report["findings"]]
    assert "error" not in [level for level, _ in findings], done.stdout
    assert report["server"]["running"]
    assert ("java" in report["versions"]) == (report["server"]["kind"] == "torchserve")
    assert report["environment"]["OMP_WAIT_POLICY"] == "PASSIVE"
    served = {model["model"]: model for model in report["server"]["models"]}
    archives = {archive["file"]: archive for archive in report["archives"]}
    for name in ("intents", "tiny"):
        assert served[name]["state"] == "ready"
        assert served[name]["hash"] == archives[f"{name}.mar"]["model_hash"]
    threads = sum(model["threads"] * int(model["workers"].split("/")[1]) for model in served.values())
    assert any("threads of workers" in what for _, what in findings) == (threads > usable_cores())


def test_a_served_model_explains(each_server: Live, tmp_path: Path) -> None:
    """A served model explains; the word that decides is the deepest."""
    own = ("--config", each_server.config, "--run-dir", each_server.run_dir)
    done = explain("intents", "I want my money back.", "--output", "why.html", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"refund_status .* money \+\d\.\d+", done.stdout)
    assert PageReader((tmp_path / "why.html").read_text(encoding="utf-8")).texts == ["I want my money back."]


def test_the_server_exposes_the_queried_metrics(each_server: Live) -> None:
    """Every metric of rules and dashboard that TorchServe exposes on a machine without a GPU."""
    each_server.post("/predictions/tiny", '"word "')
    each_server.post("/predictions/tiny", '"' + "word " * 700 + '"')
    each_server.post("/predictions/tiny", "[null]")
    each_server.post("/explanations/tiny", '"Where is it?"')
    queried = {name for query in QUERIES for name in names(query) if ":" not in name} - {
        "up",
        "Requests5XX",
        *GATEWAY_METRICS,
        *OF_CALIBRATED_MODELS,
    }
    # The utilization since the collector started, moments before, may be 0.0; it must be one number.
    queried.remove("CPUUtilization")
    metrics = requests.get(f"http://127.0.0.1:{each_server.ports['metrics_address']}/metrics", timeout=10).text
    (utilization,) = re.findall(r"(?m)^CPUUtilization\{.*\} ([\d.]+)$", metrics)
    assert 0 <= float(utilization) <= 100
    for name in sorted(queried):
        each_server.wait_for_metric(name, 0.001)
        assert each_server.metric(name) > 0 or name.endswith("_bucket"), name


def test_a_calibrated_model(each_server: Live, live: Live, model_folder: Path, tmp_path: Path) -> None:
    """Texts like those of the calibration leave the index of drift low, others raise it, as the rules compute it.

    Answers are judged on request, over gRPC too.
    """
    labels = ("anger", "joy", "fear", "calm")
    rows = [{"text": text, "label": labels[number % 4]} for number, text in enumerate(short_texts(400))]
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    settings = replace(settings, handler=replace(settings.handler, threads=1))
    build(
        ArchiveContents(model_folder, "watched", "1.0", settings, scores=ScoreExamples(tmp_path / "held-out.jsonl")),
        each_server.store,
    )
    each_server.script("models.py", "register", "watched")
    try:
        before = observed_tokens(each_server, 0)
        sent, indices = sum(before.values()), []
        for texts in (short_texts(400, seed=1), [f"{text} ⁂ {text}" for text in short_texts(400, seed=2)]):
            for start in range(0, len(texts), 50):
                body = json.dumps(texts[start : start + 50])
                assert each_server.post("/predictions/watched", body).status_code == 200
            sent += len(texts)
            after = observed_tokens(each_server, sent)
            indices.append(stability_index({name: after[name] - before.get(name, 0) for name in after}, each_server))
            before = after
        assert indices[0] < 0.2 < indices[1]
        check_judged_answers(partial(ask_over_http, each_server))
        if each_server is live:  # the standalone server has no gRPC
            check_judged_answers(lambda body: json.loads(live.grpc("watched", json.dumps(body).encode())))
    finally:
        each_server.script("models.py", "unregister", "watched")


def ask_over_http(server: Live, body: Any) -> Any:
    """Return the answer to a body."""
    return server.post("/predictions/watched", json.dumps(body)).json()


def check_judged_answers(ask: Callable[[Any], Any]) -> None:
    """Compare answers that are judged, and raw ones, with the plain one."""

    def judged(**parameters: Any) -> Any:
        (answer,) = ask({"inputs": ["Where is it?"], "parameters": parameters})
        return answer

    plain = judged()
    scores = {entry["label"]: entry["score"] for entry in plain}
    for threshold, abstained in ((0.999, True), (0.001, False)):
        assert judged(min_confidence=threshold) == {"ranking": plain, "abstained": abstained}
    chosen = judged(coverage=0.9)
    assert (chosen["ranking"], chosen["coverage"]) == (plain, 0.9)
    assert set(chosen["set"]) <= scores.keys()
    assert len(judged(coverage=0.999)["set"]) >= len(chosen["set"]) > 0
    raw = {entry["label"]: entry["score"] for entry in judged(raw=True)}
    assert raw.keys() == scores.keys()
    assert raw != scores


def observed_tokens(live: Live, at_least: float) -> dict[str, float]:
    """Return how many texts fell into each bin of lengths, once there are enough."""
    deadline = time.monotonic() + COUNTED_S
    while sum((counts := bins_of(live, "bert_observed_total")).values()) < at_least and time.monotonic() < deadline:
        time.sleep(0.1)
    return counts


def bins_of(live: Live, name: str) -> dict[str, float]:
    """Return a metric of the lengths of texts by bin."""
    text = requests.get(f"http://127.0.0.1:{live.ports['metrics_address']}/metrics", timeout=10).text
    lines = re.findall(rf"(?m)^{name}\{{(.*)\}} ([\d.eE-]+)$", text)
    labels = [(dict(re.findall(r'(\w+)="([^"]*)"', found)), float(value)) for found, value in lines]
    return {
        each["Bin"]: value for each, value in labels if (each["ModelName"], each["Feature"]) == ("watched", "tokens")
    }


def stability_index(counts: dict[str, float], live: Live) -> float:
    """Return the population stability index against the reference of the archive."""
    expected, total = bins_of(live, "bert_reference_share"), sum(counts.values())
    pairs = [(max(counts.get(name, 0) / total, 1e-4), max(share, 1e-4)) for name, share in expected.items()]
    return sum((seen - share) * math.log(seen / share) for seen, share in pairs)


def test_the_gateway_in_front(live: Live, tmp_path: Path) -> None:
    """Check the response of every route, and a ping."""
    with running(tmp_path / "g", live.ports["inference_address"], live.run_dir / "key_file.json") as server:
        plain = server.request("POST", "/predictions/tiny", b"Where is it?", Content_Type="text/plain").json
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Where is it?"]}
        bodies: dict[str, Any] = {
            "/predictions/tiny/1.0": "Where is it?",
            "/predictions/tiny/1.0/tokenize": "Where is it?",
            "/explanations/tiny": "Where is it?",
            "/v1/models/tiny:predict": {"instances": ["Where is it?"]},
            "/v1/models/tiny:explain": {"instances": ["Where is it?"]},
            "/v2/models/tiny/infer": {"inputs": [tensor]},
        }
        for path, body in bodies.items():
            response = server.request("POST", path, json.dumps(body).encode())
            assert response.status == 200, path
            assert int(response.headers["x-request-tokens"]) > 0
        assert server.request("POST", "/predictions/tiny/1.0", b'"Where is it?"').json == plain
        assert server.request("GET", "/ping", b"", Authorization=None).json == {"status": "Healthy"}
        for path, malformed, status in (("tiny", b"[null]", 422), ("tiny", b"{", 400), ("tiny/1.0/no", b'"a"', 404)):
            response = server.request("POST", f"/predictions/{path}", malformed)
            assert (response.status, response.json["code"]) == (status, status)
            assert response.headers["x-error-message"]
        assert server.request("POST", "/predictions/nobody").json["type"] == "ModelNotFoundException"
        assert server.request("POST", "/predictions/tiny", b"a", Content_Encoding="gzip").status == 415
        assert "Where" not in server.log()


def test_the_report_of_what_is_served(live: Live, tmp_path: Path) -> None:
    """The quickstart's model, asked over HTTP: the gate decides the exit code, and nobody's text is in the files."""
    gate, output = tmp_path / "gate.yaml", tmp_path / "report"
    gate.write_text("score: 0.85\nunanswered: 0\n")
    data = str(ROOT / "examples" / "intents" / "test.csv")
    command = ["intents", "--data", data, "--limit", "40", "--no-robustness", "--explain", "3"]
    command += ["--output", str(output), "--gate", str(gate)]
    kept = live.script("evaluate.py", *command, check=False)
    assert kept.returncode == 0, kept.stderr
    report = json.loads((output / "report.json").read_text())
    assert (report["model"]["version"], report["data"]["examples"]) == ("1.0", 40)
    assert report["calibration"]["ece"]["value"] < 0.5
    assert report["faithfulness"]["texts"] == 3
    assert report["cost"]["p99_ms"] >= report["cost"]["p50_ms"] > 0
    gate.write_text("metrics: {nll: 0.00001}\n")
    refused = live.script("evaluate.py", *command, check=False)
    assert refused.returncode == 1
    assert "answers: those are not asked again" in refused.stderr
    assert "FAILED: metrics.nll" in refused.stderr
    assert all("parcel" not in file.read_text() for file in output.iterdir())


def test_the_time_of_a_request_is_accounted_for(each_server: Live) -> None:
    """The parts that the server counts make up less than the whole; Java is the frontend of TorchServe alone."""
    spent = RequestTime(connections=1)
    url = f"http://127.0.0.1:{each_server.ports['metrics_address']}/metrics"
    pid = int((each_server.run_dir / "run" / "pid").read_text())
    each_server.post("/predictions/tiny", json.dumps({"inputs": "warm"}))
    each_server.steady_metric("ts_inference_requests_total")
    for _ in "12":  # two loads at the same number of connections
        with spent.observe(url, pid):
            for number in range(10):
                body = json.dumps({"inputs": f"where is parcel {number}?"})
                assert each_server.post("/predictions/tiny", body).status_code == 200
    row = spent.row()
    assert row["requests"] == 20
    assert row["requests_a_batch"] == 1
    parts = [row[f"{name}_ms"] for name in ("queue", "tokenize", "inference", "rest")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(row["total_ms"])
    is_torchserve = "java" in psutil.Process(pid).name()
    assert (row["cpu_ms"]["frontend"] > 0) == is_torchserve
    assert row["cpu_ms"]["worker"] > row["inference_ms"] / 100
    assert row["cpu_ms"]["client"] > 0
    assert row["idle"] < 1
