"""Ids in the output: every type of Parquet and of JSON, in both formats, without loss."""

from __future__ import annotations

import datetime
import decimal
import doctest
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handler.protocol import JSON
from scripts.scoring import corpus, ids
from scripts.scoring.answer_schema import AnswerSchema
from scripts.scoring.corpus import format_of, sources
from scripts.scoring.output import OUTPUTS
from scripts.scoring.rows import CorpusColumns

COLUMNS = CorpusColumns(id="n")
SCHEMA = AnswerSchema("", ids=True)
UUID = uuid.UUID("baa863ef-a5c6-44c6-8fa6-09936824d90a")
TYPES: list[tuple[Any, list[JSON]]] = [
    (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    (pa.array([0.1, float("nan"), float("inf"), float("-inf")]), [0.1, None, "Infinity", "-Infinity"]),
    (pa.array([True, None]), [True, None]),
    (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    (pa.array([datetime.date(2024, 5, 1), None]), ["2024-05-01", None]),
    (pa.array([1704164645123456789, None], pa.timestamp("ns")), ["2024-01-02T03:04:05.123456789", None]),
    (pa.array([1704164645123456], pa.timestamp("us", "Europe/Berlin")), ["2024-01-02T03:04:05.123456Z"]),
    (pa.array([3723000000001], pa.time64("ns")), ["01:02:03.000000001"]),
    (pa.array([1500, None], pa.duration("ms")), ["PT1.5S", None]),
    (pa.array([decimal.Decimal("1.10"), None]), ["1.10", None]),
    (pa.array([decimal.Decimal("12345678901234567890.123")], pa.decimal256(50, 3)), ["12345678901234567890.123"]),
    (pa.array([b"\x00\xff", None]), ["AP8=", None]),
    (pa.array([UUID.bytes], pa.uuid()), [str(UUID)]),
    (pa.array([["a", None], None]), [["a", None], None]),
    (pa.array([{"day": datetime.date(2024, 5, 1), "x": b"\x00"}]), [{"day": "2024-05-01", "x": "AA=="}]),
    (pa.array([None, None]), [None, None]),
]


def written(path: Path, output: Path, *, typed: bool) -> Path:
    """Read a file with ids in the column n, and write its rows with one answer each."""
    (source,) = sources([path], COLUMNS)
    (part,) = corpus.parts([source], 100)
    read = format_of(source).read(source, part, COLUMNS)
    answers: list[JSON] = [{"label": "yes"}] * len(read.rows)
    kind = OUTPUTS[output.suffix.removeprefix(".")]
    kind.write(output, "a", read.rows, answers, SCHEMA, read.ids if typed else None)
    return output


def strict(line: str) -> JSON:
    """Parse a line, and refuse what JSON does not have."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize(("column", "expected"), TYPES, ids=lambda value: str(getattr(value, "type", ""))[:30] or None)
def test_ids_of_every_parquet_type(tmp_path: Path, column: Any, expected: list[JSON]) -> None:
    """JSON lines hold their values as JSON, a Parquet output holds the column itself, or the texts of JSON."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * len(column), "n": column}), path)
    lines = written(path, tmp_path / "a.jsonl", typed=True).read_text(encoding="utf-8").splitlines()
    assert [strict(line)["id"] for line in lines] == expected
    kept = pq.read_table(written(path, tmp_path / "typed.parquet", typed=True))["id"]
    original = pq.read_table(path)["n"]
    assert kept.type == original.type
    assert kept.to_pylist() == original.to_pylist() or "nan" in str(original.to_pylist())
    texts = pq.read_table(written(path, tmp_path / "texts.parquet", typed=False))["id"]
    assert texts.type == pa.string()
    assert texts.to_pylist() == [ids.text_of(value) for value in expected]


def test_an_id_of_json_that_is_no_number(tmp_path: Path) -> None:
    """Python's JSON reads NaN and Infinity; strict readers of the output do not."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "n": NaN}\n{"text": "x", "n": [Infinity]}\n{"text": "x", "n": null}\n')
    lines = written(path, tmp_path / "out.jsonl", typed=False).read_text(encoding="utf-8").splitlines()
    assert [strict(line)["id"] for line in lines] == [None, ["Infinity"], None]


def test_the_type_of_ids_is_kept_where_all_files_have_it(tmp_path: Path) -> None:
    """Parts of one folder must have one schema: of different types, or beside JSON lines, ids are texts."""
    for name, values in {"a": [1, 2], "b": [3, 4], "c": ["d", "e"]}.items():
        pq.write_table(pa.table({"text": ["x", "y"], "n": values}), tmp_path / f"{name}.parquet")
    (tmp_path / "d.jsonl").write_text('{"text": "x", "n": 7}\n')

    def typed(*names: str) -> bool:
        return ids.typed_ids([source.id_type for source in sources([tmp_path / name for name in names], COLUMNS)])

    assert typed("a.parquet", "b.parquet")
    assert not typed("a.parquet", "c.parquet")
    assert not typed("a.parquet", "d.jsonl")
    assert not typed("d.jsonl")


def test_worked_examples_are_true() -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(ids).failed == 0
