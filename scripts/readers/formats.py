"""File formats as numbered records: CSV, TSV, JSON, JSON lines, Parquet and lines of text.

A reader takes a file's name and its bytes as a stream and yields (row number, record). It refuses the first bad row
by file and row, never by the row's text. Rows are numbered as a spreadsheet shows them: the header of a CSV or TSV is
row 1, the first line of JSON lines or of a text is row 1, the first object of a JSON list is row 1, the first row of a
Parquet file is row 0 (as pandas counts).
Blank lines of tables and JSON lines are no rows, but count.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from scripts.cli.console import ScriptError
from scripts.readers import label_studio, squad
from scripts.readers.annotations import UnreadableAnnotation, plain_record

Record: TypeAlias = Mapping[str, object]
Reader: TypeAlias = Callable[[str, BinaryIO], Iterator[tuple[int, Record]]]

MAX_CELL_CHARS = 2**31 - 1  # the csv module refuses cells above 131,072 characters otherwise


def decode_lines(name: str, file: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a UTF-8 stream, each with its line end; a byte-order mark is dropped.

    Only "\\n" ends a line: U+2028 and other separators of Unicode belong to the text.
    """
    offset = 0
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = offset + error.start
            raise ScriptError(f"{name} line {number}: byte {byte} is not UTF-8; save the file as UTF-8") from None
        if number == 1:
            refuse_utf16(name, line)
        yield text
        offset += len(line)


def row_lines(name: str, file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a format in which a line is a row, as `decode_lines` does.

    Raises ScriptError for a stream that has no such lines.
    """
    first = file.readline()
    require_line_ends(name, first)
    yield from decode_lines(name, chain([first], file) if first else ())


def require_line_ends(name: str, first: bytes) -> None:
    """Raise ScriptError where the first line shows that all rows would be one.

    Args:
        first: all bytes up to the first "\\n".
    """
    if b"\r" in first.strip(b"\r\n") and not first.endswith(b"\n"):
        raise ScriptError(f"{name}: its lines end in a carriage return alone: save it with line feeds (\\n)")


def refuse_utf16(name: str, first: bytes) -> None:
    """Raise ScriptError for the first line of a file in UTF-16 without a mark, which is UTF-8 with a NUL a letter."""
    n_zeros = first.count(b"\0")
    if n_zeros and n_zeros * 3 >= len(first):
        raise ScriptError(f"{name}: every second byte is 0, as in UTF-16: save the file as UTF-8")


def read_csv(name: str, file: BinaryIO, delimiter: str = ",") -> Iterator[tuple[int, Record]]:
    """Yield the records of a comma-separated table; quoted cells may hold delimiters and line breaks."""
    header: list[str] | None = None
    for row, cells in csv_rows(name, decode_lines(name, file), delimiter):
        if header is None:
            header = unique_header(name, cells)
        else:
            yield row, to_record(name, row, header, cells)


def csv_rows(name: str, lines: Iterable[str], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each row of comma-separated lines, the header first; blank rows are left out.

    Raises ScriptError, by row, for a quote that is never closed. Two stray quotes could make one cell of all lines
    between them; so a cell of several lines is refused too if every line of the whole file, read without quotes, has
    as many cells as the header: then the file never needed quotes.
    """
    width, plain, first_long_row = 0, True, 0
    row = 0
    row_lines: list[str] = []
    try:
        for row, cells in enumerate(csv_cells(recorded(lines, row_lines), delimiter), start=1):
            width = width or len(cells)
            plain = plain and all(line.count(delimiter) + 1 == width for line in row_lines if line.strip("\r\n"))
            if len(row_lines) > 1 and not first_long_row:
                first_long_row = row
            row_lines.clear()
            if cells:
                yield row, cells
    except csv.Error as error:
        raise ScriptError(f"{name} row {row + 1}: {error}; {STRAY_QUOTE}") from None
    if plain and first_long_row and width > 1:
        raise ScriptError(f"{name} row {first_long_row}: one cell of several lines, or a stray quote; {STRAY_QUOTE}")


STRAY_QUOTE = (
    'a quote at the start of a cell opens a cell that ends at the next quote: write " inside a text as "" and put the '
    "text in quotes, or save the file as .tsv, where quotes are plain characters"
)


def recorded(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Yield lines, and append each to `record`."""
    for line in lines:
        record.append(line)
        yield line


def csv_cells(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the cells of each row of comma-separated lines; raises csv.Error for a quote that is never closed.

    Blanks between a delimiter and a quote belong to no cell, nor do the quotes then.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    # newline="": a carriage return alone ends a row too, as in files of old spreadsheets.
    parts = (part for line in lines for part in (io.StringIO(line, newline="") if "\r" in line else (line,)))
    row: list[str] = []
    for cells in csv.reader(recorded(parts, row), delimiter=delimiter, strict=True):
        is_padded = any(f"{delimiter} " in part for part in row)
        row.clear()
        yield [unquote(cell) if cell[:1] == " " else cell for cell in cells] if is_padded else cells


def read_tsv(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the records of a tab-separated table, one a line.

    A quote is an ordinary character unless it wraps the whole cell: many published TSV files hold single quotes,
    which the rules of CSV would take for the start of a cell that swallows the following lines.
    """
    header: list[str] | None = None
    for row, line in enumerate(row_lines(name, file), start=1):
        if header is None:
            header = unique_header(name, tsv_cells(line))
        elif line.rstrip("\r\n"):
            yield row, to_record(name, row, header, tsv_cells(line))


def tsv_cells(line: str) -> list[str]:
    """Return the cells of one line of a TSV, without the line's end.

    >>> tsv_cells('a\\t"b c"\\t"Yes" and "no"\\n')
    ['a', 'b c', '"Yes" and "no"']
    """
    return [unquote(cell) for cell in line.removesuffix("\n").removesuffix("\r").split("\t")]


def unquote(cell: str) -> str:
    """Return a cell without the quotes around it.

    >>> unquote('"a ""good"" one"'), unquote('"Yes" and "no"'), unquote(' "b"')
    ('a "good" one', '"Yes" and "no"', 'b')
    """
    bare = cell.strip(" ")
    inner = bare[1:-1]
    wrapped = len(bare) > 1 and bare[0] == bare[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if wrapped else cell


def read_jsonl(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the objects of a file with one JSON object a line."""
    for row, line in enumerate(row_lines(name, file), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except RepeatedField as error:
            raise ScriptError(f"{name} row {row}: {error}") from None
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ScriptError(f"{name} row {row}: not a JSON object on one line")
        yield row, annotated(name, row, record)


class RepeatedField(ValueError):
    """An object of JSON has a field twice, of which either could be meant."""


def parse_json(content: str) -> Any:
    """Return the value of a JSON text; raises RepeatedField, or ValueError where it is no JSON."""
    return json.loads(content, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise RepeatedField("an object has a field twice: leave one of the two out")
    return record


def read_json(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the objects of a JSON list, or of JSON lines.

    The list may be the `data` of an object, as pandas and other exports write it; then its items may be the articles
    of SQuAD. A list may be an export of Label Studio.
    """
    content = "".join(decode_lines(name, file))
    try:
        value = parse_json(content)
    except RepeatedField as error:
        raise ScriptError(f"{name}: {error}") from None
    except (ValueError, RecursionError):
        yield from read_jsonl(name, io.BytesIO(content.encode("utf-8", "surrogatepass")))
        return
    is_data = isinstance(value, dict) and isinstance(value.get("data"), list)
    items = value["data"] if is_data else value if isinstance(value, list) else [value]
    if is_data and squad.is_articles(items):
        yield from squad.read_articles(name, items)
        return
    if label_studio.is_export(items):
        yield from label_studio.read_export(name, items)
        return
    for row, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise ScriptError(f"{name} row {row}: not a JSON object")
        yield row, annotated(name, row, item)


def annotated(name: str, row: int, record: Record) -> Record:
    """Return a record without the form of the tool that it was annotated with."""
    try:
        return plain_record(record)
    except UnreadableAnnotation as error:
        raise ScriptError(f"{name} row {row}: {error}") from None


def read_lines(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the lines of a plain text as records with one field, `text`; a blank line has an empty text."""
    for row, line in enumerate(row_lines(name, file), start=1):
        yield row, {"text": line.strip()}


def read_parquet(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the rows of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ScriptError("Parquet files need pyarrow: pip install -r requirements/score.txt") from None
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            refuse_repeated(name, opened.schema_arrow.names)
            names = class_names(name, opened.schema_arrow.metadata or {})
            for row, record in enumerate(record for batch in opened.iter_batches() for record in batch.to_pylist()):
                try:
                    decoded = {column: decode(record.get(column)) for column, decode in names.items()}
                except UnknownClass as error:
                    raise ScriptError(f"{name} row {row}: {error}") from None
                yield row, {column: text_of(name, row, cell) for column, cell in {**record, **decoded}.items()}
    except pyarrow.ArrowException:
        raise ScriptError(f"{name} is no Parquet file, or a broken one") from None


def text_of(name: str, row: int, cell: object) -> object:
    """Return the text of bytes, which some programs write instead of strings; other cells stay."""
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        raise ScriptError(f"{name} row {row}: a cell holds bytes that are not UTF-8") from None


class UnknownClass(ValueError):
    """A cell is neither a class that the schema names nor the number of one."""


def class_names(name: str, metadata: Mapping[bytes, bytes]) -> dict[str, Callable[[Any], object]]:
    """Return a function from class numbers to names for each column whose Parquet schema names its classes.

    The datasets library writes that schema; a negative number is a withheld label.
    """
    try:
        features = dict(json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}))
    except (ValueError, TypeError, AttributeError):
        raise ScriptError(
            f"{name}: what its schema says of the datasets library cannot be read: write it again"
        ) from None
    decoders: dict[str, Callable[[Any], object]] = {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if names and feature.get("_type") == "ClassLabel":
            decoders[column] = partial(class_name, names)
        inner = feature.get("feature") if isinstance(feature, dict) else None
        names = inner.get("names") if isinstance(inner, dict) else None
        if names:
            decoders[column] = partial(class_name, names)
    return decoders


def class_name(names: Sequence[str], cell: Any) -> object:
    """Return the name of a class number, or of each number of a list; a negative number is a withheld label.

    A name stays as it is: other programs than the datasets library write names beside its schema, and numbers with a
    fraction where a cell of the column is empty.

    >>> class_name(["no", "yes"], [1, 0.0, "yes", -1, None])
    ['yes', 'no', 'yes', None, None]
    """
    if isinstance(cell, list):
        return [class_name(names, number) for number in cell]
    if cell is None or cell in names or (isinstance(cell, float) and math.isnan(cell)):
        return cell
    if not isinstance(cell, (int, float)) or cell != int(cell) or cell >= len(names):
        raise UnknownClass(
            f"the label is not one of the {len(names)} classes that its schema names, or a number from 0 to "
            f"{len(names) - 1}"
        )
    return names[int(cell)] if cell >= 0 else None


TABLES: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
}
TEXT_LINES: dict[str, Reader] = {".txt": read_lines}


# What people have beside the formats that are read, and how to make one of these of it.
OTHER_FORMATS = {
    (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"): "unpack it first",
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV (UTF-8)",
    (".arrow", ".feather", ".pkl", ".pickle"): "write it as Parquet",
    (".ndjson",): "JSON lines: rename it to .jsonl",
    (".ann",): "BRAT's files are not read: export texts with entities (start, end, label) as JSON lines",
    (".spacy",): "write the documents as JSON lines with text and entities (start, end, label)",
    (
        ".conllu",
    ): "CoNLL-U has parts of speech and trees: write tokens and tags as JSON lines, or as .conll with the tag last",
    (".xml", ".html"): "write one object a line as JSON lines",
}


def unknown_format(path: Path, accepted: Iterable[str]) -> ScriptError:
    """Return the error for a file whose name does not say a format that is read here."""
    suffix = path.suffix.lower()
    advice = next((f"; {text}" for suffixes, text in OTHER_FORMATS.items() if suffix in suffixes), "")
    return ScriptError(f"{path}: the name must end in one of {', '.join(accepted)}{advice}")


def records(path: Path, reader: Reader) -> Iterator[tuple[int, Record]]:
    """Yield the numbered records of a file without holding it in memory."""
    with path.open("rb") as file:
        yield from reader(str(path), file)


def delimited_header(path: Path) -> list[str]:
    """Return the column names of a .tsv file, or of any other file read as CSV; an empty file has none."""
    with path.open("rb") as file:
        try:
            is_tsv = path.suffix.lower() == ".tsv"
            tsv = map(tsv_cells, row_lines(str(path), file))  # reads nothing yet
            cells = tsv if is_tsv else csv_cells(decode_lines(str(path), file))
            return unique_header(str(path), next(cells, []))
        except csv.Error as error:
            raise ScriptError(f"{path} row 1: {error}") from None


def unique_header(name: str, header: list[str]) -> list[str]:
    """Return the names of columns without blanks around them.

    Raises ScriptError where one appears twice, or where all of them seem to be one, of a table with other delimiters.
    """
    header = [column.strip() for column in header]
    delimiter = next((mark for mark in (";", "\t", "|") if mark in header[0]), None) if len(header) == 1 else None
    if delimiter is not None:
        raise ScriptError(
            f"{name}: the header has one column, {header[0]!r}: separate the cells by commas, or by tabs in a .tsv, "
            f"instead of {delimiter!r}"
        )
    refuse_repeated(name, header)
    return header


def refuse_repeated(name: str, header: Iterable[str]) -> None:
    """Raise ScriptError where two columns have one name."""
    if repeated := [column for column, n in Counter(header).items() if n > 1 and column]:
        raise ScriptError(f"{name}: column {repeated[0]} appears twice in the header")


def to_record(name: str, row: int, header: Sequence[str], cells: Sequence[str]) -> Record:
    """Return the cells of one row by column; refuse a row that has more or fewer cells than the header."""
    if len(cells) != len(header):
        is_padded = any(cell.startswith(" ") and cell.lstrip(" ").startswith('"') for cell in cells)
        advice = "; a quote behind a blank is a plain character: write no blank before it" if is_padded else ""
        raise ScriptError(f"{name} row {row}: {len(cells)} cells, but the header has {len(header)}{advice}")
    return dict(zip(header, cells, strict=True))
