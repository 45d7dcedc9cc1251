"""Drift through TorchServe's entry point: the lines that a worker writes for the metrics show it, and only it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from pathlib import Path

import pytest

from handler.bert_handler import BertHandler
from handler.loading import load_predictor
from handler.protocol import serialize_value
from handler.telemetry import reference_measurements
from scripts.archives.score_calibration import ScoreExamples, calibrate_scores
from tests.support.frames import Worker, http, metrics_of
from tests.support.samples import JSON_TYPE, ROOT
from tests.support.texts import short_texts

Bins = dict[str, dict[str, float]]  # of each feature
LINE = re.compile(
    r"\[METRICS\]bert_observed_total\.\w+:([\d.]+)\|#ModelName:\w+,ModelVersion:1\.0,Feature:(\w+),Bin:([^|]+)"
)


@pytest.fixture(scope="module")
def bert_handler(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> BertHandler:
    """Return a handler whose scores were calibrated on short texts."""
    file = tmp_path_factory.mktemp("data") / "held-out.jsonl"
    labels = ("anger", "joy", "fear", "calm")
    rows = [{"text": text, "label": labels[number % 4]} for number, text in enumerate(short_texts(400))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bert_handler = BertHandler()
    bert_handler.predictor = load_predictor(model_folder, version="1.0")
    calibrate_scores(bert_handler.predictor, ScoreExamples(file))
    return bert_handler


def observed(worker: Worker, texts: list[str], caplog: pytest.LogCaptureFixture) -> Bins:
    """Send texts in requests of 50; return the counts that TorchServe would read from the worker's output."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for start in range(0, len(texts), 50):
            (answered,) = worker(http(serialize_value(list(texts[start : start + 50])), JSON_TYPE))
            assert answered.status == 200
        worker.handler.metrics.flush()
    bins: Bins = defaultdict(lambda: defaultdict(float))
    for count, feature, name in LINE.findall(caplog.text):
        bins[feature][name] += float(count)
    assert not any(text in caplog.text for text in texts)
    return bins


def psi(seen: dict[str, float], expected: dict[str, float]) -> float:
    """Return the population stability index, as deploy/prometheus/rules.yml computes it."""
    total = sum(seen.values())
    shares = [(max(seen.get(name, 0) / total, 1e-4), max(share, 1e-4)) for name, share in expected.items()]
    return sum((p - q) * math.log(p / q) for p, q in shares)


def test_metrics_show_drift_and_only_drift(bert_handler: BertHandler, caplog: pytest.LogCaptureFixture) -> None:
    """Longer texts with unknown characters drift in both features; texts of the same kind in none."""
    worker = Worker(bert_handler, metrics_of(ROOT / "metrics.yaml"))
    calibration = bert_handler.predictor.calibration
    assert calibration is not None
    assert calibration.reference is not None
    reference: Bins = defaultdict(dict)
    for name, _, value, labels in reference_measurements(calibration.reference, "1.0"):
        if name == "bert_reference_share":
            reference[labels[1]][labels[2]] = value
    assert {*reference} == {"tokens", "unknown_share", "score", "label"}
    assert all(sum(bins.values()) == pytest.approx(1, abs=1e-4) for bins in reference.values())

    same = observed(worker, short_texts(400, seed=1), caplog)
    drifted = observed(worker, [f"{text} ⁂ {text}" for text in short_texts(400, seed=2)], caplog)
    threshold = {feature: 0.2 + (len(bins) - 1) * (1 / 400 + 1 / 400) for feature, bins in reference.items()}
    for feature, bins in reference.items():
        assert sum(same[feature].values()) == sum(drifted[feature].values()) == 400
        assert {*same[feature], *drifted[feature]} <= {*bins}
        assert psi(same[feature], bins) < threshold[feature]
    for feature in ("tokens", "unknown_share"):
        assert psi(drifted[feature], reference[feature]) > threshold[feature]
