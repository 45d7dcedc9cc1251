"""The description of what is served, which TorchServe asks a worker for (`GET /models/M?customized=true`)."""

from __future__ import annotations

from handler import openapi
from handler.engine import cpu
from handler.predictor import Predictor
from handler.protocol import JSON


def describe(predictor: Predictor) -> JSON:
    """Describe what is served: task, labels, limits, precision, calibration, hash, and an OpenAPI document."""
    task, engine = predictor.task, predictor.engine
    abstention = predictor.calibration.abstention if predictor.calibration else None
    return {
        "name": predictor.model.name,
        "version": predictor.model.version,
        "task": task.name,
        "labels": task.labels,
        "problem_type": task.model_config.problem_type,
        "architecture": engine.architecture,
        "precision": engine.precision.name,
        "device": str(engine.device),
        "threads": cpu.thread_count(),
        "packed": engine.packed,
        "limits": {
            "max_length": predictor.tokenizer.max_length,
            "overflow": task.overflow,
            "max_texts": task.config.max_texts,
            "max_characters": task.config.max_characters,
            "max_response_bytes": predictor.max_response_bytes,
            "max_batch_tokens": engine.max_batch_tokens,
        },
        "operations": {word: task.name for word, task in predictor.operations.items()},
        "explained": predictor.explainable,
        "calibration": predictor.calibration.report.get("scores") if predictor.calibration else None,
        "abstain_by": abstention.kind if abstention else None,
        "model_hash": predictor.model_hash,
        "openapi": openapi.document(predictor.operations, predictor.explainable, predictor.model, task.config),
    }
