"""The files of a report: report.json, report.html, model-index.yaml."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.evaluation.data import EvaluationData
from scripts.evaluation.page import page

HUB_METRICS = {"macro_f1": "f1", "micro_f1": "f1", "first": "hits@1"}  # keys of metrics -> types on the Hub


def write(folder: Path, report: Mapping[str, Any], data: EvaluationData, *, with_text: bool) -> None:
    """Write the files; texts of rows only if `with_text`, and only into the page."""
    clean = without_nan(report)
    (folder / "report.json").write_text(json.dumps(clean, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "model-index.yaml").write_text(model_index(clean), encoding="utf-8")
    texts = {}
    if with_text:
        located = [*data.examples, *data.out_of_scope]
        texts = {item.row: " | ".join(map(str, text_of(data, item.example))) for item in located}
    (folder / "report.html").write_text(page(clean, texts), encoding="utf-8")


def text_of(data: EvaluationData, example: Any) -> tuple[str, ...]:
    """Return the texts of an example."""
    return data.task.texts(example)


def without_nan(value: JSON) -> JSON:
    """Return a value in which numbers that are not defined are null, as JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def model_index(report: Mapping[str, Any]) -> str:
    """Return the metrics as `model-index` of a model card on the Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    def result(kind: str, name: str, described: Mapping[str, Any]) -> EvalResult:
        interval = {key: round(described[key], 4) for key in ("lower", "upper") if described.get(key) is not None}
        return EvalResult(
            task_type=report["model"]["task"],
            dataset_type="file",
            dataset_name=report["data"]["name"],
            dataset_args={"sha256": report["data"]["sha256"], "examples": report["data"]["examples"]},
            metric_type=kind,
            metric_name=name,
            metric_value=round(described["value"], 4),
            metric_args={f"{key}_95": value for key, value in interval.items()},
        )

    results = [
        result(HUB_METRICS.get(key, key), described["title"], described)
        for key, described in report["metrics"].items()
        if described["value"] is not None
    ]
    if report["calibration"]:
        for key, name in (("ece", "ECE, bins of equal width"), ("ece_equal_mass", "ECE, bins of equal mass")):
            results.append(result("expected_calibration_error", name, report["calibration"][key]))
    return ModelCardData(model_name=report["model"]["name"], eval_results=results).to_yaml() + "\n"
