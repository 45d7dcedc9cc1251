"""The rows of a corpus: cut into parts, read back one by one, and written with their answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES, records
from scripts.scoring import corpus, formats
from scripts.scoring.answer_schema import AnswerSchema, arrow, narrowed
from scripts.scoring.corpus import format_of, sources
from scripts.scoring.output import OUTPUTS
from scripts.scoring.rows import CorpusColumns, CorpusRow
from tests.support.samples import LoadMain

SECRET = "xyzzyplugh"  # is in texts, and must never be in a log


def rows_of(path: Path, columns: CorpusColumns | None = None, size: int = 2) -> list[CorpusRow]:
    """Cut a file into small parts and read them, each on its own."""
    (source,) = sources([path], columns or CorpusColumns())
    parts = list(corpus.parts([source], size))
    parts_rows = [format_of(source).read(source, part, columns or CorpusColumns()).rows for part in parts]
    assert [len(rows) for rows in parts_rows] == [part.rows for part in parts]
    assert all(0 < part.rows <= size for part in parts)
    rows = [row for part in parts_rows for row in part]
    assert [row.number for row in rows] == list(range(len(rows)))
    return rows


def questions(rows: list[CorpusRow]) -> list[Any]:
    """Return the questions; what is wrong in the place of one that could not be read."""
    return [row.problem or row.question for row in rows]


# --- what is read --------------------------------------------------------------------------------------------------


def test_lines_of_text(tmp_path: Path) -> None:
    """Ends of either kind, a byte order mark, an empty line, one that is not UTF-8, and no end at the end."""
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\ntwo\u2028three\n".encode() + b"f\xff\n" + "fünf".encode())
    assert questions(rows_of(path)) == ["one", "", "two\u2028three", "the row is not UTF-8", "fünf"]


def test_objects(tmp_path: Path) -> None:
    """Blank lines are no rows; what is no object stands in its place."""
    path = tmp_path / "a.jsonl"
    lines = ['{"text": "a", "n": 7}', "", '{"text": "b", "text_pair": "c"}', "{", "[]"]
    lines += ['{"question": "d", "n": 8}', "  "]
    path.write_text("\n".join(lines) + "\n")
    rows = rows_of(path, CorpusColumns(id="n"))
    assert [row.id for row in rows] == [7, None, None, None, 8]
    wrong = ["the row has no field n", "the row is not JSON", "no JSON object"]
    assert questions(rows) == ["a", *wrong, {"question": "d"}]
    assert questions(rows_of(path))[1] == {"text": "b", "text_pair": "c"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_tables(tmp_path: Path, end: str) -> None:
    """Parts begin where rows do: not at line breaks inside of cells."""
    path = tmp_path / "a.csv"
    cells = [["n", "text", "more"], ["1", f'a "quoted"{end}{end}b', "x"], ["2", "ü, \t", "y"]]
    cells += [["3", "", ""], ["4", "z"]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator=end).writerows(cells)
        file.write(end)
    with path.open("ab") as file:
        file.write(b"5,\xff,\n")
    rows = rows_of(path, CorpusColumns(id="n"))
    wrong = ["the row has 2 cells, the header 3", "the row is not UTF-8"]
    assert questions(rows) == [f'a "quoted"{end}{end}b', "ü, \t", "", *wrong]
    assert [row.id for row in rows] == ["1", "2", "3", None, None]
    pairs = questions(rows_of(path, CorpusColumns("more", "text")))
    assert pairs[1] == {"text": "y", "text_pair": "ü, \t"}


def test_csv_with_carriage_returns_alone(tmp_path: Path) -> None:
    """Old spreadsheets end rows so: parts begin at them, too."""
    path = tmp_path / "a.csv"
    path.write_bytes(b'text\rone\r"t\rwo"\rthree\r')
    assert questions(rows_of(path)) == ["one", "t\rwo", "three"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tsv_tables(tmp_path: Path, end: str) -> None:
    """A row is a line, and a quote within a cell is a character, as for every other command."""
    path = tmp_path / "a.tsv"
    lines = ["\ufeffn\ttext\tmore", '1\t"a ""quoted"" b"\tx', '2\t"Yes" and "no"\ty', "", "3\t\t", "4\tz"]
    path.write_bytes(end.join([*lines, ""]).encode() + b"5\t\xff\t\n" + b"6\tlast\t\xff")
    rows = rows_of(path, CorpusColumns(id="n"))
    wrong = ["the row has 2 cells, the header 3", "the row is not UTF-8"]
    assert questions(rows) == ['a "quoted" b', '"Yes" and "no"', "", *wrong, "last"]
    assert [row.id for row in rows] == ["1", "2", "3", None, None, "6"]
    complete = b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    path.write_bytes(complete)
    assert questions(rows_of(path)) == [record["text"] for _, record in records(path, TABLES[".tsv"])]


def test_columns(tmp_path: Path) -> None:
    """Row groups are cut too; a null is a row; without a text column a row is a question as a whole."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c", "d", "e"], "n": [1, 2, 3, 4, 5]}), path, row_group_size=3)
    rows = rows_of(path, CorpusColumns(id="n"))
    assert questions(rows) == ["a", None, "c", "d", "e"]
    assert [row.id for row in rows] == [1, 2, 3, 4, 5]
    pq.write_table(pa.table({"question": ["a"], "context": ["b"]}), path)
    assert questions(rows_of(path)) == [{"question": "a", "context": "b"}]


def test_long_rows_make_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is held in memory as a whole."""
    monkeypatch.setattr(formats, "MAX_PART_BYTES", 50)
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("text\n" + f"{'a' * 60}\n" * 3)
        (source,) = sources([tmp_path / name], CorpusColumns())
        assert all(part.end - part.begin <= 70 for part in corpus.parts([source], 100))


def test_row_groups_make_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the decoded bytes of their rows, which a dictionary of repeated texts hides from the file's own sizes."""
    monkeypatch.setattr(formats, "MAX_PART_BYTES", 50_000)
    path = tmp_path / "a.parquet"
    texts = ["a" * 20_000] * 300 + ["b"] * 900 + ["c" * 60_000]
    pq.write_table(pa.table({"text": texts, "n": range(1201)}), path, row_group_size=1000)
    assert path.stat().st_size < 50_000
    (source,) = sources([path], CorpusColumns(id="n"))
    parts = list(corpus.parts([source], 400))
    assert [part.rows for part in parts] == [3] * 100 + [400, 300, 201]
    parts_rows = [format_of(source).read(source, part, CorpusColumns(id="n")).rows for part in parts]
    assert [row.question for rows in parts_rows for row in rows] == texts
    assert [row.id for rows in parts_rows for row in rows] == list(range(1201))
    again = format_of(source).read(source, parts[1], CorpusColumns(id="n")).rows  # a part that is repeated
    assert [row.id for row in again] == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", b"id,body\n1,a\n", "has no column text; it has id, body: use --column"),
        ("a.csv", b'text\na\n"never closed\nb\n', r"a\.csv row 3: unexpected end of data"),
        ("a.csv", b'text,n\n"a,1\nb,2\nc",3\n', r"a\.csv row 2: one cell of several lines, or a stray quote"),
        ("a.csv", b"text,text\na,b\n", "column text appears twice"),
        ("a.parquet", b"nothing", "is no Parquet file, or a broken one"),
        ("a.xml", b"", "must end in one of .txt, .json, .jsonl, .csv, .tsv, .parquet"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    """It is refused before anything is computed, without its words."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScriptError, match=complaint):
        rows_of(path)


def test_a_folder_is_searched(tmp_path: Path) -> None:
    """For files with known ends, by their names."""
    for name in ("b.txt", "c/a.txt", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a\n")
    assert [Path(source.name).name for source in sources([tmp_path], CorpusColumns())] == ["b.txt", "a.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScriptError, match="no file in"):
        sources([tmp_path / "empty"], CorpusColumns())


def test_answers_in_the_folder_of_the_corpus_are_no_part_of_it(tmp_path: Path) -> None:
    """Or the run that goes on would find other files than the one that began."""
    (tmp_path / "a.csv").write_text("text\nhello\n", encoding="utf-8")
    output = tmp_path / "answers"
    begun = sources([tmp_path], CorpusColumns(), output)
    output.mkdir()
    (output / "part-000000.jsonl").write_text("{}\n", encoding="utf-8")
    (output / "_plan.json").write_text("{}", encoding="utf-8")
    assert [source.name for source in begun] == [str(tmp_path / "a.csv")]
    assert sources([tmp_path], CorpusColumns(), output) == begun
    assert len(sources([output], CorpusColumns(), tmp_path / "others")) == 2


# --- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "parameters", "typed"),
    [
        ("text-classification", {}, True),
        ("token-classification", {"aggregation_strategy": "none", "ignore_labels": []}, True),
        ("question-answering", {"top_k": 1}, True),
        ("question-answering", {"top_k": 2}, True),
        ("feature-extraction", {}, True),
        ("sparse-embedding", {}, True),
        ("sparse-embedding", {"top_k": 3, "return_tokens": True}, True),
        ("late-interaction", {}, True),
        ("late-interaction", {"return_tokens": True}, True),
        ("rerank", {}, True),
        ("fill-mask", {}, False),  # one mask or several: two shapes
    ],
)
def test_columns_hold_the_answers_of_a_task(
    load_main: LoadMain, tmp_path: Path, main: str, parameters: dict[str, Any], typed: bool
) -> None:
    """What is read back is what was answered."""
    predictor = load_main(main)
    answers = predictor.answer_items(list(predictor.task.self_test_items), parameters)
    arrays = predictor.answer_items(list(predictor.task.self_test_items), parameters, as_arrays=True)
    schema_of_answers = AnswerSchema.of(predictor.task.schema()["answer"], answers, ids=False)
    rows = [CorpusRow(number) for number in range(len(answers))]
    path = tmp_path / "part.parquet"
    OUTPUTS["parquet"].write(path, "a.txt", rows, arrays, schema_of_answers)
    read_back = pq.read_table(path)["answer"].to_pylist()
    assert bool(schema_of_answers.answer) is typed
    assert [without_nulls(answer) if typed else json.loads(answer) for answer in read_back] == answers
    assert [(row.file, row.row, row.error) for row in OUTPUTS["parquet"].read(path)] == [
        ("a.txt", number, "") for number in range(len(rows))
    ]


@pytest.mark.parametrize("main", ["feature-extraction", "late-interaction"])
def test_lines_hold_arrays_of_fp32(load_main: LoadMain, tmp_path: Path, main: str) -> None:
    """A vector of a text, or of each token: every number is the one that was computed."""
    predictor = load_main(main)
    arrays = predictor.answer_items(list(predictor.task.self_test_items), as_arrays=True)
    rows = [CorpusRow(number) for number in range(len(arrays))]
    OUTPUTS["jsonl"].write(tmp_path / "a.jsonl", "a.txt", rows, arrays, AnswerSchema("", ids=False))
    for array, line in zip(arrays, (tmp_path / "a.jsonl").read_bytes().splitlines(), strict=True):
        np.testing.assert_array_equal(np.array(json.loads(line)["answer"], np.float32), array)


def test_a_column_of_embeddings_has_their_precision(load_main: LoadMain) -> None:
    """Vector databases read fp32; twice the bytes would hold the same numbers."""
    predictor = load_main("feature-extraction")
    answers = predictor.answer_items(list(predictor.task.self_test_items))
    kind = AnswerSchema.of(predictor.task.schema()["answer"], answers, ids=False).answer
    assert arrow(json.loads(kind)) == pa.list_(pa.float32())


def without_nulls(value: Any) -> Any:
    """Leave out the fields that another kind of answer would have."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return {name: field for name, field in value.items() if field is not None} if isinstance(value, dict) else value


def test_answers_that_the_schema_does_not_tell_are_texts() -> None:
    """Better than a column that drops a field."""
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    assert narrowed(schema, [{"a": 1.0}]) == schema
    assert AnswerSchema.of(schema, [{"a": 1.0}], ids=False).answer
    assert not AnswerSchema.of(schema, [{"a": 1.0, "b": 2.0}], ids=False).answer
