"""File formats: the same records from every format, and no row that is swallowed or torn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.cli.console import ScriptError
from scripts.client.questions import file_questions
from scripts.readers import tables
from scripts.readers.formats import TABLES

SECRET = "secret"


def read(path: Path, content: str) -> list[tuple[int, Any]]:
    """Write a file and return its numbered records."""
    path.write_text(content, encoding="utf-8")
    return list(tables.read(path, TABLES).rows)


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        (f'text,label\n{SECRET},a\n"{SECRET},b\nlast,c\n', 3, "unexpected end of data"),
        (f'text,label\n{SECRET},a\n"{SECRET},b\nx "y",c\nlast,c\n', 3, "',' expected after '\"'"),
        # Two stray quotes: by the rules of CSV the three lines from row 3 on are one cell.
        (f'text,label\n{SECRET},a\n"{SECRET},b\nmiddle,c\n{SECRET}",d\nlast,e\n', 3, "one cell of several lines"),
    ],
)
def test_a_stray_quote_swallows_no_rows(content: str, row: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(ScriptError, match=rf"a\.csv row {row}: {reason}.*as \.tsv") as refused:
        read(path, content)
    assert SECRET not in str(refused.value)
    with pytest.raises(ScriptError, match=rf"a\.csv row {row}: {reason}"):  # predict.py reads the same
        list(file_questions(path, TABLES[".csv"], None, None))


def test_quotes_that_are_text(tmp_path: Path) -> None:
    """A quote inside a cell is plain; cells of several lines are read where commas show that the file is quoted."""
    assert read(tmp_path / "a.csv", 'text,label\n5" disk,a\n')[0][1]["text"] == '5" disk'
    rows = read(tmp_path / "a.csv", 'text,label\n"one, two\nthree",a\n"four, five",b\n')
    assert [record["text"] for _, record in rows] == ["one, two\nthree", "four, five"]
    assert read(tmp_path / "a.csv", 'text\n"one\ntwo"\n') == [(2, {"text": "one\ntwo"})]
    rows = read(tmp_path / "a.tsv", 'text\tlabel\n"a\tx\nb" "c\ty\n"d"\tz\n')
    assert [record["text"] for _, record in rows] == ['"a', 'b" "c', "d"]


def test_blanks_before_quotes(tmp_path: Path) -> None:
    """They belong to no cell, as csv with skipinitialspace has it; a text that has such quotes itself keeps them."""
    expected = [(2, {"text": "a", "label": "b"}), (3, {"text": 'say "c"', "label": " d"})]
    assert read(tmp_path / "a.csv", 'text, label\n"a", "b"\n "say ""c""", d\n') == expected
    assert read(tmp_path / "a.tsv", 'text\t label\n"a"\t "b"\n "say ""c"""\t d\n') == expected
    assert read(tmp_path / "a.csv", 'text,label\nx," ""b"""\n')[0][1]["label"] == ' "b"'
    with pytest.raises(
        ScriptError, match=r"row 2: 3 cells, .* 2; a quote behind a blank is a plain character: write no"
    ):
        read(tmp_path / "a.csv", 'text, label\n"a", "b, c"\n')


def test_cells_of_any_length_and_old_line_ends(tmp_path: Path) -> None:
    assert len(read(tmp_path / "a.csv", f"text,label\n{'x' * 200_000},a\n")[0][1]["text"]) == 200_000
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\rone,a\rtwo,b\r")
    assert [row for row, _ in tables.read(tmp_path / "a.csv", TABLES).rows] == [2, 3]


def test_json_is_a_list_or_lines(tmp_path: Path) -> None:
    records = [{"text": "a", "label": "007"}, {"text": "b", "label": None}]
    assert read(tmp_path / "a.json", json.dumps(records, indent=1)) == list(enumerate(records, start=1))
    lines = "\n".join(json.dumps(record) for record in records)
    assert read(tmp_path / "a.json", lines) == read(tmp_path / "a.jsonl", lines)
    with pytest.raises(ScriptError, match=r"a\.json row 2: not a JSON object"):
        read(tmp_path / "a.json", '[{"text": "a"}, 3]')
    with pytest.raises(ScriptError, match=r"a\.json row 1: not a JSON object"):
        read(tmp_path / "a.json", '{"data": [3]}')


def test_parquet_names_its_classes(tmp_path: Path) -> None:
    """The datasets library writes the names into the schema; a pyarrow table alone has numbers."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=kinds)
    rows.to_parquet(tmp_path / "a.parquet")
    read_back = tables.read(tmp_path / "a.parquet", TABLES)
    assert read_back.rows == ((0, {"text": "a", "label": "yes"}), (1, {"text": "b", "label": None}))
    pyarrow.parquet.write_table(pyarrow.table({"label": [1]}), tmp_path / "b.parquet")
    assert tables.read(tmp_path / "b.parquet", TABLES).rows == ((0, {"label": 1}),)
    schema = {b"huggingface": pyarrow.parquet.read_schema(tmp_path / "a.parquet").metadata[b"huggingface"]}
    for cells in (["yes", None], [1.0, None]):  # as other programs write, which keep the schema's metadata
        pyarrow.parquet.write_table(
            pyarrow.table({"text": ["a", "b"], "label": cells}).replace_schema_metadata(schema), tmp_path / "d.parquet"
        )
        assert tables.read(tmp_path / "d.parquet", TABLES).rows == read_back.rows
    for other in (2, "maybe", 0.5):
        table = pyarrow.table({"text": ["a"], "label": [other]}).replace_schema_metadata(schema)
        pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
        with pytest.raises(
            ScriptError, match=r"e\.parquet row 0: the label is not one of the 2 classes that its schema"
        ):
            tables.read(tmp_path / "e.parquet", TABLES)
    for metadata in (b"", b"[]", b'{"info": null}'):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "f.parquet")
        with pytest.raises(ScriptError, match="what its schema says of the datasets library cannot be read"):
            tables.read(tmp_path / "f.parquet", TABLES)
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ScriptError, match="is no Parquet file"):
        tables.read(tmp_path / "c.parquet", TABLES)


def test_a_whole_number_is_one_label(tmp_path: Path) -> None:
    """pandas writes 1 as 1.0 where a cell of the column is empty: train and test files would have other labels."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text(
        '{"label": 1}\n{"label": 1.0}\n{"label": "1"}\n{"label": "1.0"}\n{"label": 0.5}\n'
    )
    pyarrow.parquet.write_table(pyarrow.table({"label": [1.0, None]}), tmp_path / "b.parquet")
    table = tables.read(tmp_path / "a.jsonl", TABLES)
    names = [table.label(row, record, "label") for row, record in table.rows]
    assert names == ["1", "1", "1", "1.0", "0.5"]
    floats = tables.read(tmp_path / "b.parquet", TABLES)
    assert [tables.label_name(record["label"]) for _, record in floats.rows] == ["1", ""]


def labelled_task(text: str, *results: Any, **changed: Any) -> dict[str, Any]:
    """Return one task of an export of Label Studio."""
    return {"id": 1, "annotations": [{"result": list(results), **changed}], "data": {"text": text}}


def test_exports_of_label_studio(tmp_path: Path) -> None:
    def span(start: int, end: int, text: str) -> dict[str, Any]:
        return {"type": "labels", "value": {"start": start, "end": end, "text": text, "labels": ["PER"]}}

    def choices(*names: str) -> dict[str, Any]:
        return {"type": "choices", "value": {"choices": list(names)}}

    path = tmp_path / "a.json"
    # Label Studio runs in a browser, whose characters are UTF-16 code units: an emoji counts twice.
    rows = read(path, json.dumps([labelled_task("🙂 Ann", span(3, 6, "Ann")), labelled_task("no one")]))
    assert [record["entities"] for _, record in rows] == [[{"start": 2, "end": 5, "label": "PER"}], []]
    rows = read(path, json.dumps([labelled_task("a", choices("x")), labelled_task("b", choices("y"))]))
    assert [record["label"] for _, record in rows] == ["x", "y"]
    rows = read(path, json.dumps([labelled_task("a", choices("x", "y")), labelled_task("b", choices("y"))]))
    assert [record["label"] for _, record in rows] == [["x", "y"], ["y"]]
    rows = read(path, json.dumps([labelled_task("a", choices("x")), labelled_task("b")]))
    assert [record["label"] for _, record in rows] == ["x", None]
    with pytest.raises(ScriptError, match="both choices and labelled spans"):
        read(path, json.dumps([labelled_task("Ann", choices("x"), span(0, 3, "Ann"))]))
    for message, task in {
        "row 1: a span's text is not in": labelled_task(SECRET, span(0, 3, "Ann")),
        "row 1: 0 annotations": labelled_task(SECRET, was_cancelled=True),
        "row 1: an annotation of type rating": labelled_task(SECRET, {"type": "rating", "value": {}}),
    }.items():
        with pytest.raises(ScriptError, match=message) as refused:
            read(path, json.dumps([task]))
        assert SECRET not in str(refused.value)
