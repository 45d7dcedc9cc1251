"""What a server serves, as the page shows it: models with their versions and states, and what each can be asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.http import Management, Model
from scripts.explorer.forms import FORMS, Form


@dataclass(frozen=True)
class Operation:
    """One use of a served model."""

    word: str | None  # the parameter `operation`; None: the main task, which needs none
    form: Form
    explained: bool | None = None  # None: not known
    parameters: Mapping[str, JSON] = field(default_factory=dict)  # name -> JSON Schema
    example: JSON = None
    example_parameters: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return its name for a person."""
        return self.form.operation


@dataclass(frozen=True)
class DescribedModel:
    """What a model says of itself."""

    facts: Mapping[str, str]  # for a person, in order
    operations: Mapping[str, Operation]  # by label, the main one first

    @classmethod
    def of(cls, description: JSON) -> DescribedModel:
        """Read what `GET /models/NAME/VERSION?customized=true` answers.

        Raises:
            ScriptError: it is no model of this package.
        """
        if not isinstance(description, Mapping) or "operations" not in description:
            raise ScriptError("this model does not say what it can be asked: it was not packed by scripts/package.py")
        explained = description.get("explained", [])
        documented = description.get("openapi", {})
        operations: dict[str, Operation] = {}
        for word, task in description["operations"].items():
            if task in FORMS:
                operation = _operation(word, FORMS[task], explained, documented)
                operations.setdefault(operation.label, operation)
        return cls(_facts(description), operations)


UNKNOWN = DescribedModel({}, {form.operation: Operation(form.operation, form) for form in FORMS.values()})


def models_of(management: Management) -> dict[str, list[Model]]:
    """Return every version of every model, by name; the default version first."""
    found: dict[str, list[Model]] = {}
    for model in management.models():
        found.setdefault(model.name, []).append(model)
    return {name: sorted(versions, key=lambda model: not model.default) for name, versions in found.items()}


def state_of(models: Mapping[str, list[Model]]) -> tuple[bool, str]:
    """Return whether every version is ready, and a sentence that says so or names the others."""
    if not models:
        return False, "The server runs and serves no model: scripts/models.py register NAME"
    waiting = [model for versions in models.values() for model in versions if not model.is_ready]
    if waiting:
        return False, "; ".join(
            f"{model.name} {model.version} is not ready: {model.ready} of {model.min_workers} workers"
            if model.min_workers
            else f"{model.name} {model.version} has no workers: scripts/models.py scale {model.name} --min 1"
            for model in waiting
        )
    return True, f"The server is ready; models: {', '.join(models)}"


def _operation(word: str, form: Form, explained: Collection[str], document: JSON) -> Operation:
    is_main = word == "predict"
    item, parameters, schema = _documented(document, None if is_main else word)
    return Operation(
        None if is_main else word, form, form.operation in explained or word in explained, schema, item, parameters
    )


def _documented(document: JSON, word: str | None) -> tuple[JSON, Mapping[str, JSON], Mapping[str, JSON]]:
    """Return example, its parameters and the schemas of the parameters of an operation, from the OpenAPI document."""
    for path, route in document.get("paths", {}).items():
        parts = path.strip("/").split("/")
        if parts[0] == "predictions" and (parts[3:] == [word] if word else len(parts) == 2):
            content = route["post"]["requestBody"]["content"]["application/json"]
            value = content["examples"]["hugging face"]["value"]
            shapes = (shape.get("properties", {}) for shape in content["schema"]["anyOf"])
            reference = next(shape["parameters"]["$ref"] for shape in shapes if "inputs" in shape)
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            return value["inputs"], value["parameters"], schema["properties"]
    return None, {}, {}


def _facts(description: Mapping[str, JSON]) -> dict[str, str]:
    labels = description.get("labels") or []
    names = ", ".join(map(str, labels[:12])) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
    facts = {
        "version": description.get("version"),
        "task": description.get("task"),
        "labels": names,
        "architecture": description.get("architecture"),
        "precision": description.get("precision"),
        "device": description.get("device"),
        "longest text": f"{description.get('limits', {}).get('max_length')} tokens",
        "scores": "calibrated" if description.get("calibration") else "as the model computes them",
        "hash": str(description.get("model_hash", ""))[:16],
    }
    return {name: str(value) for name, value in facts.items() if value}
