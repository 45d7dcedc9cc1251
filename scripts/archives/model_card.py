"""The model card of an archive: what it is, from what and how it was trained, how good it is, how it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from handler.config import ModelConfig
from handler.protocol import JSON

if TYPE_CHECKING:
    from handler.predictor import Predictor


def card(model: Path, predictor: Predictor, config: ModelConfig) -> str:
    """Write the model card: what, from what, trained how, metrics, labels."""
    task, name = predictor.task, predictor.model
    lines = [f"# {name.name} {name.version}", "", f"Task: {task.name} ({type(predictor.engine.model).__name__})", ""]
    training = model / "training.json"
    if training.is_file():
        lines += told(json.loads(training.read_text(encoding="utf-8")))
    else:
        lines += ["Training is not recorded: the model folder holds no training.json.", ""]
    lines += ["## Labels", "", *(f"{index}. {label}" for index, label in enumerate(task.labels)), ""]
    lines += ["## Serving", "", "```yaml", config.to_yaml().strip(), "```", ""]
    return "\n".join(lines)


def told(training: dict[str, JSON]) -> list[str]:
    """Write what training.json knows as Markdown."""
    lines = ["## Metrics", ""]
    for split in ("validation", "test"):
        metrics = training.get(split) or {}
        lines += (
            [f"- {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())] if metrics else []
        )
    lines += ["", "## Training", "", f"- from: {training.get('base_model', {}).get('name')}"]
    for split, facts in training.get("data", {}).items():
        lines.append(f"- {split} data: {facts['name']}, {facts['rows']} rows, SHA-256 {facts['sha256']}")
    lines += [f"- {name}: {value}" for name, value in training.get("parameters", {}).items() if value is not None]
    lines += [f"- best epoch: {training.get('best_epoch')}", f"- finished: {training.get('finished')}"]
    versions = training.get("versions", {})
    return [*lines, "- with: " + ", ".join(f"{name} {version}" for name, version in versions.items()), ""]
