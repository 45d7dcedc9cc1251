"""Examples of what a model will be asked, from tables: for calibration, and to compare precisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from handler import protocol
from handler.predictor import Predictor
from handler.protocol import JSON, Body
from handler.request_state import Request
from handler.sequences import Encoding
from scripts.cli.console import ScriptError
from scripts.client.questions import as_json
from scripts.readers.tables import Table, label_name

# Columns that are answers, and so no part of an item.
ANSWER_COLUMNS = {"label", "labels", "answers", "answer", "tags", "entities", "id"}


@dataclass(frozen=True)
class Example:
    """An item as requests hold it, and its label where that is known."""

    item: JSON
    label: str | None
    where: str = field(default="example", compare=False)  # file and row


def examples_of(table: Table, label_column: str = "label") -> list[Example]:
    """Return the rows of a table as items: one text, or an object of all columns that are no answers."""
    answers = {*ANSWER_COLUMNS, label_column}
    examples = []
    for row, record in table.rows:
        try:
            cells = {name: as_json(cell) for name, cell in record.items() if name not in answers}
        except ValueError as error:
            raise ScriptError(f"{table.name} row {row}: {error}") from None
        item: JSON = {
            name: cell for name, cell in cells.items() if cell is not None and (name or cell)
        }  # a comma ends each line
        label = record.get(label_column)
        value = item["text"] if item.keys() == {"text"} else item
        name = None if label is None else label_name(label)
        examples.append(Example(value, name, f"{table.name} row {row}"))
    if len(examples) < 2:
        raise ScriptError(f"{table.name}: {len(examples)} rows; calibration needs two at least")
    return examples


def encodings_of(predictor: Predictor, examples: Sequence[Example]) -> list[Encoding]:
    """Return the encodings that the model would read; raises ScriptError for an example that is refused."""
    bodies = [protocol.serialize_value({"instances": [example.item]}) for example in examples]
    batch = predictor.preprocess([Request(Body(body, "application/json")) for body in bodies])
    for example, request in zip(examples, batch.requests, strict=True):
        if request.error:
            raise ScriptError(f"{example.where} is no question of {predictor.task.name}: {request.error}")
    return batch.encodings()
