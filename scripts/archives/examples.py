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
from scripts.client.questions import question_of
from scripts.readers.tables import ColumnMapping, Table, label_name


@dataclass(frozen=True)
class ColumnOptions:
    """The columns that options of a command name; without a name the data decide."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None


DEFAULT_COLUMNS = ColumnOptions()


@dataclass(frozen=True)
class Example:
    """An item as requests hold it, and its label where that is known."""

    item: JSON
    label: str | None
    where: str = field(default="example", compare=False)  # file and row


def examples_of(table: Table, columns: ColumnOptions = DEFAULT_COLUMNS) -> list[Example]:
    """Return the rows of a table as items, as scripts/predict.py would ask them, with their labels."""
    if columns.text is not None:
        table.require(ColumnMapping(columns.text, columns.pair, ()))
    label_column = columns.label or "label"
    examples = []
    for row, record in table.rows:
        try:
            fields = {name: cell for name, cell in record.items() if name != label_column}
            item = question_of(fields, columns.text, columns.pair)
        except ValueError as error:
            raise ScriptError(f"{table.name} row {row}: {error}") from None
        label = record.get(label_column)
        name = None if label is None else label_name(label)
        examples.append(Example(item, name, f"{table.name} row {row}"))
    if len(examples) < 2:
        raise ScriptError(f"{table.name}: {len(examples)} rows; calibration needs two at least")
    return examples


def encodings_of(predictor: Predictor, examples: Sequence[Example]) -> list[Encoding]:
    """Return the encodings that the model would read; raises ScriptError for an example that is refused."""
    parameters = dict(predictor.task.model_parameters)
    bodies = [protocol.serialize_value({"instances": [one.item], "parameters": parameters}) for one in examples]
    batch = predictor.preprocess([Request(Body(body, "application/json")) for body in bodies])
    for example, request in zip(examples, batch.requests, strict=True):
        if request.error:
            raise ScriptError(f"{example.where} is no question of {predictor.task.name}: {request.error}")
    return batch.encodings()
