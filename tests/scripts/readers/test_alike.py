"""A file means the same to train.py, package.py --calibration, predict.py and score.py, or all of them refuse it."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.archives.examples import examples_of
from scripts.cli.console import ScriptError
from scripts.client.questions import read_questions
from scripts.readers import tables
from scripts.readers.formats import TABLES, TEXT_LINES
from scripts.scoring import corpus
from scripts.scoring.corpus import format_of, sources
from scripts.scoring.rows import CorpusColumns

GOOD: dict[str, bytes | dict[str, Any]] = {
    "blank lines.csv": b"text,label\na,x\n\nb,y\n\n",
    "old line ends.csv": b"text,label\ra,x\rb,y\r",
    "byte-order mark.csv": "\ufefftext,label\na,x\nb,y\n".encode(),
    "blanks in the header.csv": b"text , label\na,x\nb,y\n",
    "a comma at each end.csv": b"text,label,\na,x,\nb,y,\n",
    "commas at each end, from a spreadsheet.csv": b"text,label,,,\na,x,,,\nb,y,,,\n",
    "an index before, a comma behind.csv": b",text,label,\n0,a,x,\n1,b,y,\n",
    "quotes.csv": b'text,label\n"a",x\n"b",y\n',
    "tabs.tsv": b'text\tlabel\r\n"a"\tx\r\n\r\nb\ty\r\n',
    "byte-order mark.tsv": "\ufefftext\tlabel\na\tx\nb\ty\n".encode(),
    "Prodigy.jsonl": b'{"text":"a","label":"x","_input_hash":1,"_task_hash":2,"answer":"accept"}\n'
    b'{"text":"b","label":"x","_input_hash":3,"_task_hash":4,"answer":"reject"}\n',
    "Argilla.json": b'[{"id": "1", "fields": {"text": "a"}, "metadata": {}, "suggestions": {}, "responses": '
    b'{"label": [{"value": "x", "user_id": "u"}]}, "vectors": {}, "status": "pending", "_server_id": null}, '
    b'{"id": "2", "fields": {"text": "b"}, "responses": {}, "status": "pending"}]',
    "Argilla.jsonl": b'{"fields": {"text": "a"}, "responses": {}}\n{"fields": {"text": "b"}, "responses": {}}\n',
    "objects.jsonl": b'{"text": "a", "label": NaN}\n\n{"text": "b", "label": "y"}\n',
    "list.json": b'[{"text": "a", "label": "x"}, {"text": "b"}]',
    "lines.json": b'{"text": "a"}\n\n{"text": "b"}\n',
    "by pandas.json": b'{"schema": {"fields": []}, "data": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]}',
    "Label Studio.json": b'[{"data": {"text": "a"}, "annotations": [{}]},{"data": {"text": "b"}, "annotations": [{}]}]',
    "dictionary.parquet": {"text": pa.array(["a", "b"]).dictionary_encode(), "label": ["x", "y"]},
    "bytes.parquet": {"text": [b"a", b"b"], "label": ["x", "y"]},
}
BAD: dict[str, tuple[bytes | dict[str, Any] | pa.Table, str]] = {
    "semicolons.csv": (
        b"text;label\na;x\nb;y\n",
        "the header has one column, 'text;label': separate the cells by commas",
    ),
    "for Excel.csv": (b"sep=;\ntext;label\na;x\nb;y\n", "the header has one column, 'sep=;'"),
    "twice.csv": (b"text,text\na,x\nb,y\n", "column text appears twice in the header"),
    "twice.parquet": (
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"])], names=["text", "text"]),
        "column text appears twice in the header",
    ),
    "a stray quote.csv": (b'text,label\n"a,x\nb,y\n', "row 2: unexpected end of data"),
    "UTF-16.csv": ("text,label\na,x\nb,y\n".encode("utf-16"), "is not UTF-8"),
    "UTF-16 without a mark.csv": ("text,label\na,x\nb,y\n".encode("utf-16-le"), "as in UTF-16: save the file as UTF-8"),
    "UTF-16 without a mark.tsv": ("text\tlabel\na\tx\n".encode("utf-16-le"), "as in UTF-16: save the file as UTF-8"),
    "old line ends.tsv": (b"text\tlabel\ra\tx\rb\ty\r", "its lines end in a carriage return alone: save it with line"),
    "old line ends.jsonl": (b'{"text": "a"}\r{"text": "b"}\r', "its lines end in a carriage return alone"),
    "twice.json": (b'[{"text": "a", "text": "b"}]', "an object has a field twice"),
    "a number.json": (b'[{"text": "a"}, 2]', "row 2: not a JSON object"),
    "trees.conllu": (b"# text = a\n1\ta\ta\tDET\n", "CoNLL-U has parts of speech and trees: write tokens and tags"),
    "Argilla.json": (
        b'[{"fields": {"text": "a"}, "responses": {"label": [{"value": "x"}, {"value": "y"}]}}]',
        "2 responses to label that differ: export one for each record",
    ),
    "torn.parquet": (b"PAR1xx", "is no Parquet file, or a broken one"),
}
# score.py writes the problem in the row's place and goes on, the others refuse the file by the row.
BAD_ROWS: dict[str, tuple[bytes | dict[str, Any], str, str]] = {
    "long.csv": (b"text,label\na,x,z\nb,y\n", "row 2: 3 cells", "the row has 3 cells"),
    "Latin-1.csv": (b"text,label\n\xe9,x\nb,y\n", "line 2: byte 11 is not UTF-8", "the row is not UTF-8"),
    "a field twice.jsonl": (
        b'{"text": "a", "text": "c"}\n{"text": "b"}\n',
        "row 1: an object has a field twice",
        "twice",
    ),
    "Argilla.jsonl": (
        b'{"fields": {"text": "a"}, "responses": {"label": [{"value": "x"}, {"value": "y"}]}}\n{"text": "b"}\n',
        "row 1: 2 responses to label that differ",
        "2 responses to label that differ",
    ),
    "commas.jsonl": (b'{"text": "a"},\n{"text": "b"}\n', "row 1: not a JSON object on one line", "the row is not JSON"),
    "other bytes.parquet": ({"text": [b"\xff", b"b"]}, "row 0: a cell holds bytes that are not UTF-8", "not UTF-8"),
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes | dict[str, Any] | pa.Table], Path]:
    """Return a writer of files: bytes, or the columns of a Parquet file."""

    def write(name: str, content: bytes | dict[str, Any] | pa.Table) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        return path

    return write


def trained(path: Path) -> list[Any]:
    """Return the texts that train.py reads."""
    return [record.get("text") for _, record in tables.read(path, TABLES).rows]


def calibrated(path: Path) -> list[Any]:
    """Return the items that package.py --calibration reads."""
    return [example.item for example in examples_of(tables.read(path, TABLES))]


def predicted(path: Path) -> list[Any]:
    """Return the questions that predict.py reads."""
    option = "jsonl" if path.suffix == ".jsonl" else "csv"
    files = {"csv": None, "jsonl": None, option: path}
    questions, total = read_questions(argparse.Namespace(words=[], column=None, pair_column=None, **files))
    read = list(questions)
    assert total == len(read)
    return read


def scored(path: Path) -> list[Any]:
    """Return the questions that score.py reads, a problem in the place of a row that has one."""
    (source,) = sources([path], CorpusColumns())
    parts = [format_of(source).read(source, part, CorpusColumns()) for part in corpus.parts([source], 2)]
    return [row.problem or row.question for part in parts for row in part.rows]


@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_read_alike(name: str, file: Callable[..., Path]) -> None:
    """The same texts, in order."""
    path = file(name, GOOD[name])
    assert [read(path) for read in (trained, calibrated, predicted, scored)] == [["a", "b"]] * 4


@pytest.mark.parametrize("name", BAD)
def test_a_file_is_refused_alike(name: str, file: Callable[..., Path]) -> None:
    """By the same reason."""
    content, message = BAD[name]
    path = file(name, content)
    for read in (trained, calibrated, predicted, scored):
        with pytest.raises(ScriptError) as caught:
            read(path)
        assert message in str(caught.value)


@pytest.mark.parametrize("content", ["a\rb\r", "a\nb\n"])
def test_a_text_that_has_no_lines(content: str, file: Callable[..., Path]) -> None:
    """Old line ends would make one text of all, and UTF-16 texts of NUL characters."""
    encoded = content.encode("utf-16-le" if "\n" in content else "utf-8")
    path = file("texts.txt", encoded)
    for read in (lambda path: list(tables.read(path, TEXT_LINES).rows), scored):
        with pytest.raises(ScriptError, match=r"a carriage return alone|as in UTF-16"):
            read(path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.csv.gz", "unpack it"),
        ("a.xlsx", "as CSV"),
        ("a.ndjson", "rename it to .jsonl"),
        ("a.spacy", "JSON lines with text and entities"),
    ],
)
def test_formats_of_others(name: str, advice: str, file: Callable[..., Path]) -> None:
    """Named, with what to do, and never read as a CSV."""
    path = file(name, b"PK\x03\x04")
    for read in (trained, calibrated, predicted, scored):
        with pytest.raises(ScriptError, match=rf"must end in one of .*; .*{advice}"):
            read(path)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_is_refused_by_its_number(name: str, file: Callable[..., Path]) -> None:
    """As many answers as rows, or none with the number of the row."""
    content, message, problem = BAD_ROWS[name]
    path = file(name, content)
    for read in (trained, calibrated, predicted):
        with pytest.raises(ScriptError) as caught:
            read(path)
        assert message in str(caught.value)
    first, second = scored(path)
    assert problem in first
    assert second == "b"


def test_pairs_are_read_alike(file: Callable[..., Path]) -> None:
    """A column text_pair is the second text, whatever the format; --column alone reads that column."""
    columns = {"text": ["a", "c"], "text_pair": ["b", "d"]}
    contents: dict[str, bytes | dict[str, Any]] = {
        "pairs.csv": b"text,text_pair\na,b\nc,d\n",
        "pairs.tsv": b"text\ttext_pair\na\tb\nc\td\n",
        "pairs.jsonl": b'{"text": "a", "text_pair": "b"}\n{"text": "c", "text_pair": "d"}\n',
        "pairs.parquet": columns,
    }
    expected = [{"text": "a", "text_pair": "b"}, {"text": "c", "text_pair": "d"}]
    for name, content in contents.items():
        path = file(name, content)
        assert [read(path) for read in (calibrated, predicted, scored)] == [expected] * 3
    arguments = argparse.Namespace(words=[], csv=path, jsonl=None, column="text", pair_column=None)
    assert list(read_questions(arguments)[0]) == ["a", "c"]


def test_a_null_is_no_field(file: Callable[..., Path]) -> None:
    """A missing second text leaves the first one alone; a missing field of a whole question is left out."""
    path = file("nulls.parquet", {"text": ["a", "b"], "text_pair": pa.array([None, "c"])})
    expected: list[Any] = ["a", {"text": "b", "text_pair": "c"}]
    assert [read(path) for read in (calibrated, predicted, scored)] == [expected] * 3
    path = file("nulls.jsonl", b'{"question": "a", "context": null, "label": 1}\n{"text": "a", "next_sentence": "b"}\n')
    expected = [{"question": "a"}, {"text": "a", "next_sentence": "b"}]
    assert [read(path) for read in (calibrated, predicted, scored)] == [expected] * 3


def test_questions_with_answers_are_read_alike(file: Callable[..., Path]) -> None:
    """The form of SQuAD, the columns of the hub's datasets and a table ask the same."""
    answer = {"text": "a", "answer_start": 0}
    asked = [{"qas": [{"question": q, "answers": [answer], "id": q}], "context": "a b"} for q in ("one", "two")]
    columns = {"id": ["1", "2"], "question": ["one", "two"], "context": ["a b", "a b"], "answers": [[answer]] * 2}
    expected = [{"question": "one", "context": "a b"}, {"question": "two", "context": "a b"}]
    for name, content in {
        "squad.json": json.dumps({"version": "2.0", "data": [{"title": "t", "paragraphs": asked}]}).encode(),
        "squad.parquet": columns,
        "squad.csv": b"question,context,label\none,a b,x\ntwo,a b,x\n",
    }.items():
        path = file(name, content)
        assert [read(path) for read in (calibrated, predicted, scored)] == [expected] * 3, name


def test_cells_that_json_does_not_have(file: Callable[..., Path]) -> None:
    """A date is refused by its row; NaN is null, for which the model has an error of its own."""
    path = file("dates.parquet", {"text": [datetime.date(2020, 1, 1), None]})
    for read in (calibrated, predicted):
        with pytest.raises(ScriptError, match="row 0: a cell holds a date, not a text"):
            read(path)
    assert scored(path) == ["a cell holds a date, not a text: write it as text", None]
    path = file("nan.jsonl", b'{"text": NaN}\n{"text": "b"}\n')
    assert [read(path) for read in (predicted, scored)] == [[None, "b"]] * 2
