"""The model card of an archive: metadata as on the Hub, origin, training, metrics, labels, settings for serving."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handler.config import ModelConfig
from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.pretrained.provenance import Provenance

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from handler.predictor import Predictor

SPLITS = ("validation", "test")  # that training.json has metrics of


def model_card(
    model: Path,
    predictor: Predictor,
    config: ModelConfig,
    provenance: Provenance,
    sections: Sequence[str] = (),
    evaluated: Sequence[EvalResult] = (),
) -> str:
    """Return the model card of a model folder.

    Args:
        sections: lines that follow the labels and settings.
        evaluated: metrics of scripts/evaluate.py, which follow those of training in the metadata.
    """
    from huggingface_hub import ModelCard, ModelCardData

    task, identity = predictor.task, predictor.model
    file = model / "training.json"
    training = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results = [*eval_results(task.hub_task or task.name, training), *evaluated]
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.hub_task or task.name,
        license=provenance.license,
        base_model=provenance.base_models or training.get("base_model", {}).get("name"),
        model_name=identity.name if results else None,
        eval_results=results or None,
    )
    lines = [f"# {identity.name} {identity.version}", ""]
    lines += [f"Task: {task.name} ({type(predictor.engine.model).__name__})", ""]
    if training:
        lines += training_sections(training)
    else:
        lines += ["Training is not recorded: the model folder holds no training.json.", ""]
    lines += provenance.lines()
    lines += ["## Labels", "", *(f"{index}. {label}" for index, label in enumerate(task.labels)), ""]
    lines += ["## Serving", "", "```yaml", config.to_yaml().strip(), "```", "", *sections]
    return str(ModelCard("\n".join(["---", metadata.to_yaml(), "---", "", *lines])))


def eval_results(task: str, training: dict[str, JSON]) -> list[EvalResult]:
    """Return the metrics of training.json in the form of a model index."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=task,
            dataset_type="file",
            dataset_name=training["data"][split]["name"],
            dataset_split=split,
            dataset_args={"sha256": training["data"][split]["sha256"]},
            metric_type=name,
            metric_value=round(value, 4),
        )
        for split in SPLITS
        for name, value in (training.get(split) or {}).items()
        if split in training.get("data", {})
    ]


def read_model_index(file: Path) -> list[EvalResult]:
    """Return the metrics of a model-index.yaml that scripts/evaluate.py wrote; raises ScriptError for another file."""
    import yaml
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return model_index_to_eval_results(content["model-index"])[1]
    except OSError as error:
        raise ScriptError(f"--evaluated {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise ScriptError(
            f"--evaluated {file}: no model index: give the model-index.yaml of scripts/evaluate.py"
        ) from error


def training_sections(training: dict[str, JSON]) -> list[str]:
    """Return the content of training.json as lines of Markdown."""
    lines = ["## Metrics", ""]
    for split in SPLITS:
        if metrics := training.get(split):
            lines.append(f"- {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    lines += ["", "## Training", "", f"- from: {base_model_line(training.get('base_model', {}))}"]
    for split, data in training.get("data", {}).items():
        lines.append(f"- {split} data: {data['name']}, {data['rows']} rows, SHA-256 {data['sha256']}")
    lines += [f"- {name}: {value}" for name, value in training.get("parameters", {}).items() if value is not None]
    lines += [f"- best epoch: {training.get('best_epoch')}", f"- finished: {training.get('finished')}"]
    versions = training.get("versions", {})
    return [*lines, "- with: " + ", ".join(f"{name} {version}" for name, version in versions.items()), ""]


def base_model_line(base_model: dict[str, JSON]) -> str:
    """Return the name of the model that training began with, and its commit on the hub.

    >>> base_model_line({"name": "org/name", "commit": "1a2b"})
    'org/name, commit 1a2b'
    """
    commit = base_model.get("commit")
    return f"{base_model.get('name')}, commit {commit}" if commit else str(base_model.get("name"))
