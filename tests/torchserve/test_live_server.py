"""Live servers, TorchServe from the README's first command: real training, real HTTP. Bad input: tests/reliability."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from handler.config import ModelConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from scripts.client.http import Inference
from tests.support.live import Live, activated
from tests.support.samples import ROOT, TEXTS, ask, response_json

pytestmark = pytest.mark.server

MARKER = "xyzzyplugh"  # stands in texts and must never stand in a log
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES"}


def v2(text: Any) -> dict[str, Any]:
    """Wrap one text as Open Inference v2 does."""
    return {"inputs": [{**TENSOR, "data": [text]}]}


@pytest.fixture(scope="session")
def intents() -> Predictor:
    """Return the model that the quickstart trained, without a server."""
    return load_predictor(ROOT / "models" / "intents")


def test_the_quickstart_shows_predictions(live: Live) -> None:
    """A table of texts, labels and scores, then what to try next."""
    for label in ("track_order", "cancel_order", "change_address", "warranty_claim", "account_access", "talk_to_human"):
        assert label in live.quickstart
    assert "curl http" in live.quickstart
    assert "InferenceClient" in live.quickstart
    assert "scripts/serve.sh stop" in live.quickstart


def test_the_quickstarts_model_is_good(live: Live) -> None:
    """At least 90 % of the test split, recounted from the served answers."""
    with (ROOT / "examples" / "intents" / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = live.post("/predictions/intents", json.dumps([row["text"] for row in rows])).json()
    right = sum(ranked[0]["label"] == row["label"] for row, ranked in zip(rows, answers, strict=True))
    assert right / len(rows) >= 0.90
    report = json.loads((ROOT / "models" / "intents" / "training.json").read_text(encoding="utf-8"))
    assert json.dumps(report).count("accuracy")


def test_served_equals_transformers_text_by_text(each_server: Live) -> None:
    """Scores of every label, over HTTP, equal those of the pipeline on the trained folder."""
    reference = pipeline("text-classification", str(ROOT / "models" / "intents"), truncation=True, device="cpu")
    question = {"inputs": TEXTS, "parameters": {"top_k": None}}
    for text, answer in zip(TEXTS, each_server.post("/predictions/intents", json.dumps(question)).json(), strict=True):
        expected = {one["label"]: one["score"] for one in reference(text, top_k=None)}
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(expected, abs=1e-5)


def test_every_codec_gives_the_same_answer(each_server: Live) -> None:
    """One text, sent in every way that api.md names."""
    text = "Where is my parcel?"
    post = each_server.post
    expected = post("/predictions/intents", text, "text/plain").json()
    values = [
        post("/predictions/intents", text, None).json(),
        post("/predictions/intents", text, "application/octet-stream").json(),
        post("/predictions/intents/1.0", text, "text/plain; charset=UTF-8").json(),
        post("/predictions/intents/1.0/predict", json.dumps(text)).json(),
        post("/predictions/intents", json.dumps(text), "APPLICATION/JSON; charset=utf-8").json(),
        post("/predictions/intents", None, None, files={"data": (None, text)}).json(),
        post("/predictions/intents", {"data": text}, None).json(),
        post("/predictions/intents", json.dumps([text])).json()[0],
        post("/predictions/intents", json.dumps({"text": text})).json(),
        post("/predictions/intents", json.dumps({"inputs": text})).json()[0],
        post("/invocations?model_name=intents", json.dumps({"inputs": text})).json()[0],
        post("/v1/models/intents:predict", json.dumps({"instances": [text]})).json()["predictions"][0],
    ]
    for value in values:
        assert [one["label"] for one in value] == [one["label"] for one in expected]
        assert [one["score"] for one in value] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    tensors = post("/v2/models/intents/infer", json.dumps({**v2(text), "id": "7"})).json()
    assert (tensors["model_name"], tensors["model_version"], tensors["id"]) == ("intents", "1.0", "7")
    assert tensors["outputs"][0]["data"] == [one["label"] for one in expected]


def test_grpc_answers_the_same_bytes(live: Live) -> None:
    """Text and JSON under `data`, through TorchServe's own service."""
    text = "Where is my parcel?"
    expected = live.post("/predictions/intents", text, "text/plain").json()
    for body in (text, json.dumps(text), json.dumps({"text": text})):
        got = json.loads(live.grpc("intents", body.encode()))
        assert [one["label"] for one in got] == [one["label"] for one in expected]
    refused = json.loads(live.grpc("intents", b'{"text": ""}'))  # gRPC's own status is OK
    assert (refused["code"], refused["type"]) == (422, "InvalidInput")


def test_answers_follow_requests_under_concurrency(each_server: Live, intents: Predictor) -> None:
    """200 different texts in 16 connections: none lost, none swapped, none wrong."""
    words = " ".join(TEXTS[:10]).split()
    shuffle = random.Random(3)  # noqa: S311
    texts = [f"{number} {' '.join(shuffle.choices(words, k=shuffle.randint(1, 40)))}" for number in range(200)]
    expected = response_json(ask(intents, texts)[0])
    with ThreadPoolExecutor(16) as pool:
        responses = list(
            pool.map(lambda text: each_server.post("/predictions/intents", text.encode(), "text/plain"), texts)
        )
    assert [response.status_code for response in responses] == [200] * 200
    for response, answer in zip(responses, expected, strict=True):
        assert intents.task.answers_match(answer, response.json(), 1e-5)
    assert max(int(response.headers["x-batch-texts"]) for response in responses) > 1


@pytest.mark.parametrize(
    "text",
    [
        f"[METRICS]{MARKER}.Count:1|#Level:Host|#hostname:x,timestamp:1",
        "[PID]1",
        "Torch worker started.",
        "${jndi:ldap://127.0.0.1/" + MARKER + "}",
        f"<script>{MARKER}</script>",
        "CUDA out of memory",
        f"\x00\x01{MARKER}\x7f",
        f"\u202e{MARKER}\u200d\uffff",
    ],
    ids=["metrics", "pid", "started", "jndi", "html", "cuda", "control", "bidi"],
)
def test_a_text_that_looks_like_a_command_is_a_text(each_server: Live, text: str) -> None:
    """It is classified like any other, and the worker lives on."""
    pids = each_server.worker_pids("tiny")
    assert each_server.post("/predictions/tiny", json.dumps(text)).status_code == 200
    assert each_server.worker_pids("tiny") == pids


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/predictions/nobody", 404),
        ("/predictions/tiny/9.9", 404),
        ("/predictions/tiny/1.0/nonsense", 404),
        ("/explanations/tiny/1.0/nonsense", 404),
        ("/explanations/nobody", 404),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_is_404(each_server: Live, path: str, status: int) -> None:
    """Unknown model, version, operation and route."""
    assert each_server.post(path, '{"instances": ["a"]}' if "v1" in path else '"a"').status_code == status


def test_explanations_on_both_routes(each_server: Live) -> None:
    """TorchServe's own route and KServe's: words that add up, while predictions beside them are answered."""
    with ThreadPoolExecutor(8) as pool:
        predictions = [pool.submit(each_server.post, "/predictions/tiny", '"Where is it?"') for _ in range(16)]
        explained = each_server.post("/explanations/tiny", '"Where is it?"').json()
        kserve = each_server.post("/v1/models/tiny:explain", '{"instances": ["Where is it?"]}').json()
    assert [word["word"] for word in explained["words"]] == ["Where", "is", "it", "?"]
    total = sum(word["attribution"] for word in explained["words"]) - explained["convergence_delta"]
    assert total == pytest.approx(explained["score"] - explained["baseline_score"], abs=1e-5)
    assert kserve["explanations"][0]["label"] == kserve["predictions"][0][0]["label"] == explained["label"]
    assert {prediction.result().status_code for prediction in predictions} == {200}


def test_headers_of_an_answer(each_server: Live) -> None:
    """Counts, times, hash and the client's own id; a passed deadline is not computed."""
    response = each_server.post("/predictions/tiny", "word " * 700, "text/plain", headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-client-request-id"] == "mine-1"
    assert response.headers["x-truncated-tokens"] == "190"
    assert len(response.headers["x-model-hash"]) == 16
    assert float(response.headers["x-inference-ms"]) > 0
    late = each_server.post("/predictions/tiny", "a", "text/plain", headers={"x-request-deadline-ms": "1000"})
    assert (late.status_code, late.json()["type"]) == (504, "Expired")


def test_a_stray_header_is_ignored_on_the_kserve_routes(each_server: Live) -> None:
    """Only TorchServe's own routes have operations."""
    response = each_server.post("/v2/models/tiny/infer", json.dumps(v2("a")), headers={"url_path": "nonsense"})
    assert response.status_code == 200


def test_metrics_count_what_was_asked(each_server: Live) -> None:
    """Texts, tokens and refusals move by what was sent."""
    texts = each_server.steady_metric("bert_texts_total", ModelName="tiny")
    refused = each_server.metric("bert_refused_requests_total", ModelName="tiny", ErrorType="InvalidInput")
    truncated = each_server.metric("bert_truncated_tokens_total", ModelName="tiny")
    each_server.post("/predictions/tiny", json.dumps(["one", "two", "word " * 700]))
    each_server.post("/predictions/tiny", "[null]")
    assert each_server.wait_for_metric("bert_texts_total", texts + 3, ModelName="tiny") == texts + 3
    assert (
        each_server.wait_for_metric("bert_truncated_tokens_total", truncated + 190, ModelName="tiny") == truncated + 190
    )
    name = "bert_refused_requests_total"
    assert each_server.wait_for_metric(name, refused + 1, ModelName="tiny", ErrorType="InvalidInput") == refused + 1
    assert each_server.metric("bert_inference_seconds_count", ModelName="tiny") > 0
    response_json = [
        each_server.metric("bert_labels_total", ModelName="tiny", Label=label)
        for label in ("anger", "joy", "fear", "calm")
    ]
    assert sum(response_json) > 0
    assert 0 < each_server.metric("bert_top_score_total", ModelName="tiny") <= sum(response_json)


def test_describe_tells_what_is_served(each_server: Live) -> None:
    """Task, labels, hash and an OpenAPI document, from the worker itself."""
    described = json.loads(each_server.script("models.py", "describe", "tiny").stdout)
    assert described["task"] == "text-classification"
    assert described["labels"] == ["anger", "joy", "fear", "calm"]
    assert described["openapi"]["paths"]["/predictions/tiny"]


def test_versions_come_and_go(live: Live, tmp_path: Path, model_folder: Path) -> None:
    """Register a second version, make it the default, scale it, go back, unregister it."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    shutil.move(build(ArchiveContents(model_folder, "tiny", "2.0", config), tmp_path), live.store / "tiny-2.mar")
    live.script("models.py", "register", "tiny-2.mar")
    live.script("models.py", "default", "tiny", "2.0")
    assert live.post("/v2/models/tiny/infer", json.dumps(v2("a"))).json()["model_version"] == "2.0"
    live.script("models.py", "scale", "tiny", "--version", "2.0", "--min", "2", "--max", "2")
    assert "2/2" in live.script("models.py", "list").stdout
    live.script("models.py", "default", "tiny", "1.0")
    live.script("models.py", "unregister", "tiny", "--version", "2.0")
    assert live.post("/v2/models/tiny/infer", json.dumps(v2("a"))).json()["model_version"] == "1.0"


def test_a_changed_archive_never_becomes_ready(each_server: Live, mar: Path) -> None:
    """One changed file: register says which, exits with an error and leaves nothing behind."""
    target = each_server.store / "broken.mar"
    with zipfile.ZipFile(mar) as source, zipfile.ZipFile(target, "w") as broken:
        for name in source.namelist():
            content = source.read(name)
            if name == "MAR-INF/MANIFEST.json":
                content = content.replace(b'"tiny"', b'"broken"')
            broken.writestr(name, content + b" " if name == "model/config.json" else content)
    done = each_server.script("models.py", "register", "broken", check=False)
    assert done.returncode != 0
    assert "model/config.json is not the file that was packed" in done.stderr
    assert "broken" not in each_server.script("models.py", "list").stdout
    target.unlink()  # the doctor would find it


def test_a_giant_request_is_refused_before_it_kills_the_worker(each_server: Live) -> None:
    """A thousand long texts take minutes: they are 503 in time, neighbours are answered, the worker lives.

    Six of the twenty seconds are left for the last pass of a slow machine, and one thread takes longer on any.
    """
    config = ModelConfig.read(ROOT / "model-config.yaml")
    frontend, handler = replace(config.frontend, responseTimeout=20), replace(config.handler, threads=1)
    impatient = replace(config, frontend=frontend, handler=handler)
    build(ArchiveContents(ROOT / "models" / "intents", "impatient", "1.0", impatient), each_server.store)
    each_server.script("models.py", "register", "impatient")
    pids = each_server.worker_pids("impatient")
    giant = json.dumps([f"{number} {'word ' * 300}" for number in range(1000)])
    with ThreadPoolExecutor(4) as pool:
        refused = pool.submit(each_server.post, "/predictions/impatient", giant)
        time.sleep(0.5)
        responses = list(
            pool.map(lambda _: each_server.post("/predictions/impatient", "hello", "text/plain"), range(3))
        )
    assert (refused.result().status_code, refused.result().json()["type"]) == (503, "Overloaded")
    assert [response.status_code for response in responses] == [200] * 3
    assert each_server.worker_pids("impatient") == pids
    each_server.script("models.py", "unregister", "impatient")


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file of the texts."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *[[text] for text in TEXTS]])
    return path


@pytest.fixture(scope="module")
def local_answers(texts_file: Path) -> str:
    """Return what predict.py --local prints for these texts."""
    command = [str(ROOT / "scripts/predict.py"), "--local", str(ROOT / "models/intents"), "--csv", str(texts_file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=activated()).stdout


def test_predict_asks_the_server_and_the_folder_alike(each_server: Live, texts_file: Path, local_answers: str) -> None:
    """Over HTTP and with --local: the same answers in the same order."""
    served = each_server.script("predict.py", "intents", "--csv", str(texts_file), "--texts-per-request", "5").stdout
    rows = [[json.loads(line) for line in output.splitlines()] for output in (served, local_answers)]
    assert [row["index"] for row in rows[0]] == list(range(len(TEXTS)))
    for one, other in zip(*rows, strict=True):
        scores = {ranked["label"]: ranked["score"] for ranked in other["answer"]}
        assert {ranked["label"]: ranked["score"] for ranked in one["answer"]} == pytest.approx(scores, abs=1e-5)


def test_status_knows_when_everything_is_ready(each_server: Live) -> None:
    """Every model ready, and a real prediction each."""
    status = each_server.script("serve.sh", "status")
    assert "intents" in status.stdout
    assert "tiny" in status.stdout


def test_no_text_of_a_user_is_logged(each_server: Live) -> None:
    """After all that was sent, the marker stands in no log (this test runs after the others of this file)."""
    each_server.post("/predictions/tiny", f"{MARKER} once more", "text/plain")
    assert Inference(each_server.server).probe("tiny", "1.0") == ""
    assert MARKER not in each_server.log()
