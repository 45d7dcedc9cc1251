"""What is scored: files of rows, cut into parts that can be read without what comes before them.

A row is known by its file and its place among the rows of the file, counted from 0 as pandas and Arrow do; blank lines
of JSON lines and tables are no rows. A row that cannot be read stands in its place with what is wrong with it, which
never quotes it; only a file whose rows cannot be told apart is refused as a whole.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.questions import TEXT, question_of
from scripts.readers.formats import unique_header

MOST_BYTES = 64 << 20  # of a part: rows may be long, and a worker holds a part in memory
NOT_UTF8 = "the row is not UTF-8"


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; without a text column a row of JSON lines or Parquet is a question as a whole."""

    text: str | None = None
    pair: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Source:
    """One file: its name in the output, and where every worker finds it."""

    name: str
    path: str
    size: int
    changed_ns: int
    header: tuple[str, ...] = ()  # of a table

    @property
    def form(self) -> Form:
        """How it is read."""
        return FORMS[Path(self.path).suffix.lower()]


@dataclass(frozen=True)
class Part:
    """Neighbouring rows of one file, and where they lie: bytes, or in Parquet a row group and a place in it."""

    source: int
    first: int
    rows: int
    begin: int
    end: int


@dataclass(frozen=True)
class Row:
    """One row: its question, or what is wrong with it."""

    number: int
    question: JSON = None
    id: JSON = None
    problem: str = ""


@dataclass(frozen=True)
class Span:
    """Part of a file."""

    rows: int
    begin: int
    end: int


class Form(ABC):
    """A form of file."""

    def header(self, path: Path, columns: Columns) -> tuple[str, ...]:
        """Return the columns of a file whose rows all have the same; raises ScriptError where one is missing."""
        return ()

    @abstractmethod
    def cut(self, path: Path, size: int) -> Iterator[Span]:
        """Cut a file into spans of at most `size` rows."""

    @abstractmethod
    def read(self, source: Source, part: Part, columns: Columns) -> Iterator[Row]:
        """Read the rows of a part."""


def sources(inputs: Sequence[Path], columns: Columns) -> tuple[Source, ...]:
    """Look at the files to score, those of a folder in the order of their names."""
    found: dict[str, Source] = {}
    for given in inputs:
        inside = [given]
        if given.is_dir():
            inside = sorted(path for path in given.rglob("*") if path.suffix.lower() in FORMS)
        if not inside:
            raise ScriptError(f"no file in {given} ends in one of {', '.join(FORMS)}")
        for path in inside:
            form = FORMS.get(path.suffix.lower())
            if form is None:
                raise ScriptError(f"{path}: the name must end in one of {', '.join(FORMS)}")
            stat = path.stat()
            found[str(path)] = Source(
                str(path), str(path.resolve()), stat.st_size, stat.st_mtime_ns, form.header(path, columns)
            )
    return tuple(found.values())


def parts(files: Sequence[Source], size: int) -> Iterator[Part]:
    """Cut files into parts of at most `size` rows; raises ScriptError where the rows cannot be told apart."""
    for index, source in enumerate(files):
        first = 0
        for span in source.form.cut(Path(source.path), size):
            yield Part(index, first, span.rows, span.begin, span.end)
            first += span.rows


# --- lines ---------------------------------------------------------------------------------------------------------


class TextLines(Form):
    """A text a line; an empty line is an empty text."""

    def cut(self, path: Path, size: int) -> Iterator[Span]:
        rows = begin = end = 0
        with path.open("rb") as file:
            for line in file:
                end += len(line)
                rows += self._is_row(line)
                if rows == size or (rows and end - begin >= MOST_BYTES):
                    yield Span(rows, begin, end)
                    rows, begin = 0, end
        if rows:
            yield Span(rows, begin, end)

    def read(self, source: Source, part: Part, columns: Columns) -> Iterator[Row]:
        lines = io.BytesIO(bytes_of(source, part))
        for number, line in enumerate(filter(self._is_row, lines), part.first):
            try:
                text = line.decode("utf-8" if part.begin or number > part.first else "utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError:
                yield Row(number, problem=NOT_UTF8)
            else:
                yield self._row(number, text, columns)

    def _is_row(self, line: bytes) -> bool:
        return True

    def _row(self, number: int, line: str, columns: Columns) -> Row:
        return Row(number, line)


class Objects(TextLines):
    """A JSON object a line."""

    def _is_row(self, line: bytes) -> bool:
        return bool(line.strip())

    def _row(self, number: int, line: str, columns: Columns) -> Row:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return Row(number, problem="the row is not JSON")
        return row_of(number, record, columns) if isinstance(record, dict) else Row(number, problem="no JSON object")


def row_of(number: int, record: dict[str, JSON], columns: Columns) -> Row:
    """Make a row of a record; one without a text column is a question as a whole, but for its id.

    >>> row_of(3, {"id": 7, "question": "a", "context": "b"}, Columns(id="id"))
    Row(number=3, question={'question': 'a', 'context': 'b'}, id=7, problem='')
    >>> row_of(3, {"text": "a"}, Columns(text="body")).problem
    'the row has no field body'
    """
    for name in filter(None, (columns.text, columns.pair, columns.id)):
        if name not in record:
            return Row(number, problem=f"the row has no field {name}")
    whole = {name: value for name, value in record.items() if name != columns.id}
    id_ = record[columns.id] if columns.id else None
    if not columns.text and TEXT not in whole:
        return Row(number, whole, id_)
    pair = columns.pair or ("text_pair" if "text_pair" in whole else None)
    return Row(number, question_of(record, columns.text or TEXT, pair), id_)


def bytes_of(source: Source, part: Part) -> bytes:
    """Read the bytes of a part."""
    with Path(source.path).open("rb") as file:
        file.seek(part.begin)
        return file.read(part.end - part.begin)


# --- tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells(Form):
    """A table with a header; quoted cells may hold line breaks, so only reading it all tells where a row begins."""

    delimiter: str

    def header(self, path: Path, columns: Columns) -> tuple[str, ...]:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                header = unique_header(str(path), next(self._reader(file), []))
            except csv.Error as error:
                raise ScriptError(f"the header of {path} cannot be read: {error}") from None
        require(path, header, columns.text or TEXT, columns.pair, columns.id)
        return tuple(header)

    def cut(self, path: Path, size: int) -> Iterator[Span]:
        end = 0

        def counted(file: io.TextIOWrapper) -> Iterator[str]:
            nonlocal end
            for line in file:
                end += len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
                yield line

        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows, reader = 0, self._reader(counted(file))
            try:
                next(reader, None)
                begin = end
                for cells in reader:
                    rows += bool(cells)
                    if rows == size or (rows and end - begin >= MOST_BYTES):
                        yield Span(rows, begin, end)
                        rows, begin = 0, end
            except csv.Error as error:
                raise ScriptError(f"line {reader.line_num} of {path} cannot be read: {error}") from None
        if rows:
            yield Span(rows, begin, end)

    def read(self, source: Source, part: Part, columns: Columns) -> Iterator[Row]:
        text = bytes_of(source, part).decode("utf-8", "surrogateescape")
        rows = filter(None, self._reader(io.StringIO(text, newline="")))
        for number, cells in enumerate(rows, part.first):
            record = dict(zip(source.header, cells, strict=False))
            used = [record.get(name) for name in (columns.text or TEXT, columns.pair, columns.id) if name]
            if len(cells) != len(source.header):
                yield Row(number, problem=f"the row has {len(cells)} cells, the header {len(source.header)}")
            elif any(map(broken, used)):
                yield Row(number, problem=NOT_UTF8)
            else:
                id_ = record[columns.id] if columns.id else None
                yield Row(number, question_of(record, columns.text or TEXT, columns.pair), id_)

    def _reader(self, lines: Any) -> Any:
        csv.field_size_limit(2**31 - 1)
        # strict: a quote that is never closed would swallow all rows behind it.
        return csv.reader(lines, delimiter=self.delimiter, strict=True)


def broken(cell: str | None) -> bool:
    """Tell whether bytes of a cell were no UTF-8."""
    return cell is not None and not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell)


def require(path: Path, header: Sequence[str], *names: str | None) -> None:
    """Refuse a file that lacks a column."""
    for name in filter(None, names):
        if name not in header:
            raise ScriptError(f"{path} has no column {name}; it has {', '.join(header) or 'none'}: use --column")


# --- Parquet -------------------------------------------------------------------------------------------------------


class Parquet(Form):
    """Columns in row groups."""

    def header(self, path: Path, columns: Columns) -> tuple[str, ...]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(path).names
        except pa.ArrowException:
            raise ScriptError(f"{path} is no Parquet file, or a broken one") from None
        require(path, names, columns.text, columns.pair, columns.id)
        if not columns.text and TEXT not in names:
            return tuple(names)
        pair = columns.pair or ("text_pair" if "text_pair" in names else None)
        return tuple(filter(None, (columns.text or TEXT, pair, columns.id)))

    def cut(self, path: Path, size: int) -> Iterator[Span]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                for place in range(0, rows, size):
                    yield Span(min(size, rows - place), group, place)

    def read(self, source: Source, part: Part, columns: Columns) -> Iterator[Row]:
        table = row_group(source.path, part.begin, source.header)
        for number, record in enumerate(table.slice(part.end, part.rows).to_pylist(), part.first):
            yield row_of(number, record, columns)


@lru_cache(maxsize=1)
def row_group(path: str, group: int, columns: tuple[str, ...]) -> Any:
    """Read a row group; a worker's next part is often of the same."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=list(columns))


FORMS: dict[str, Form] = {
    ".txt": TextLines(),
    ".jsonl": Objects(),
    ".csv": Cells(","),
    ".tsv": Cells("\t"),
    ".parquet": Parquet(),
}
