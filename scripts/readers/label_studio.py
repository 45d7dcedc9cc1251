"""Exports of Label Studio (JSON): each task becomes a record with its data and a label or entities.

Choices become `label` (a name, or a list where any task has several), labelled spans become `entities`. The export
JSON-MIN and the exports of Doccano are JSON objects whose `label` or `entities` the training tasks read themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts.cli.console import ScriptError


def is_export(items: Sequence[Any]) -> bool:
    """Return whether a JSON list is an export of Label Studio."""
    return bool(items) and all(isinstance(item, dict) and {"annotations", "data"} <= item.keys() for item in items)


def read_export(name: str, tasks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield one record for each task; raises ScriptError for annotations that a record cannot hold."""
    annotated = [(row, task["data"], results_of(name, row, task)) for row, task in enumerate(tasks, start=1)]
    several = any(len(labels) > 1 for _, _, results in annotated for kind, labels in results if kind == "choices")
    kinds = {kind for _, _, results in annotated for kind, _ in results}
    if len(kinds) > 1:
        raise ScriptError(f"{name}: both choices and labelled spans; export the tasks of one labelling at a time")
    for row, data, results in annotated:
        labels = [label for _, result_labels in results for label in result_labels]
        if kinds == {"choices"}:
            yield row, {**data, "label": labels if several else next(iter(labels), None)}
        else:
            yield row, {**data, "entities": [checked_span(name, row, data, span) for span in labels]}


def results_of(name: str, row: int, task: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """Return the results of a task's one annotation: ("choices", names) or ("labels", [span])."""
    annotations = [item for item in task["annotations"] if not item.get("was_cancelled")]
    if len(annotations) != 1:
        raise ScriptError(f"{name} row {row}: {len(annotations)} annotations; export exactly one for each task")
    results: list[tuple[str, list[Any]]] = []
    for result in annotations[0].get("result", []):
        kind, value = result.get("type"), result.get("value", {})
        if kind == "choices" and value.get("choices"):
            results.append(("choices", value["choices"]))
        elif kind == "labels" and len(value.get("labels", [])) == 1:
            results.append(("labels", [value | {"label": value["labels"][0]}]))
        else:
            raise ScriptError(f"{name} row {row}: an annotation of type {kind}; only choices and labels are read")
    return results


def checked_span(name: str, row: int, data: Mapping[str, Any], span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span by characters; Label Studio counts UTF-16 code units, which differ behind an emoji."""
    start, end, surface = span.get("start"), span.get("end"), span.get("text")
    for text in (value for value in data.values() if isinstance(value, str)):
        if surface is None or text[start:end] == surface:
            return {"start": start, "end": end, "label": span["label"]}
        units = text.encode("utf-16-le", "surrogatepass")
        if (
            isinstance(start, int)
            and isinstance(end, int)
            and units[2 * start : 2 * end] == surface.encode("utf-16-le")
        ):
            before = len(units[: 2 * start].decode("utf-16-le"))
            return {"start": before, "end": before + len(surface), "label": span["label"]}
    raise ScriptError(f"{name} row {row}: a span's text is not in the task's data at its start and end")
