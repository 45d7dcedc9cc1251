"""File formats of a corpus: each cuts a file into parts, and reads the rows of a part alone.

Cells and header are parsed by scripts/readers, so that a file has the same rows here as for every other command. Only a
file whose rows cannot be separated is refused as a whole.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.client.questions import PAIR, TEXT, is_whole, require_columns
from scripts.readers.annotations import UnreadableAnnotation, plain_record
from scripts.readers.formats import (
    Record,
    RepeatedField,
    csv_cells,
    csv_rows,
    delimited_header,
    parse_json,
    read_json,
    refuse_utf16,
    require_line_ends,
    tsv_cells,
)
from scripts.scoring.ids import id_of, ids_of_column
from scripts.scoring.parquet import RowGroupReader, row_sizes, schema_of
from scripts.scoring.rows import CorpusColumns, CorpusPart, CorpusRow, SourceFile, row_of

MAX_PART_BYTES = 64 << 20  # a worker holds a part in memory, and rows may be long
NOT_UTF8 = "the row is not UTF-8"


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of a file, located as in CorpusPart."""

    rows: int
    begin: int
    end: int


@dataclass(frozen=True)
class PartRows:
    """The rows of a part, and the column of their ids in Parquet."""

    rows: Sequence[CorpusRow]
    ids: Any = None  # an Arrow array


class FileFormat(ABC):
    """A file format."""

    def header(self, path: Path, columns: CorpusColumns) -> tuple[str, ...]:
        """Return the columns to read of a table; raises ScriptError where one is missing."""
        return ()

    def id_type(self, path: Path, columns: CorpusColumns) -> str:
        """Return the name of the type of ids; empty where the format has no types of its own."""
        return ""

    @abstractmethod
    def cut(self, source: SourceFile, size: int) -> Iterator[RowRange]:
        """Cut a file into ranges of at most `size` rows."""

    @abstractmethod
    def read(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> PartRows:
        """Read the rows of a part."""


class LineFormat(FileFormat):
    """One row a line; an empty line is an empty text."""

    has_header = False
    decode_errors = "strict"

    def cut(self, source: SourceFile, size: int) -> Iterator[RowRange]:
        rows = begin = end = 0
        with Path(source.path).open("rb") as file:
            first = file.readline()
            require_line_ends(source.name, first)
            refuse_utf16(source.name, first)
            file.seek(0)
            if self.has_header:
                begin = end = len(file.readline())
            for line in file:
                end += len(line)
                rows += self.is_row(line)
                if rows == size or (rows and end - begin >= MAX_PART_BYTES):
                    yield RowRange(rows, begin, end)
                    rows, begin = 0, end
        if rows:
            yield RowRange(rows, begin, end)

    def read(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> PartRows:
        return PartRows(list(self._rows(source, part, columns)))

    def _rows(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> Iterator[CorpusRow]:
        lines = io.BytesIO(read_bytes(source, part))
        for number, line in enumerate(filter(self.is_row, lines), part.first):
            try:
                encoding = "utf-8" if part.begin or number > part.first else "utf-8-sig"
                text = line.decode(encoding, self.decode_errors).rstrip("\r\n")
            except UnicodeDecodeError:
                yield CorpusRow(number, problem=NOT_UTF8)
            else:
                yield self.row(number, text, source, columns)

    def is_row(self, line: bytes) -> bool:
        """Tell whether a line is a row."""
        return True

    def row(self, number: int, line: str, source: SourceFile, columns: CorpusColumns) -> CorpusRow:
        """Return the row of a line."""
        return CorpusRow(number, line)


class JsonLinesFormat(LineFormat):
    """A JSON object a line; blank lines are not rows."""

    def is_row(self, line: bytes) -> bool:
        return bool(line.strip())

    def row(self, number: int, line: str, source: SourceFile, columns: CorpusColumns) -> CorpusRow:
        try:
            record = parse_json(line)
        except RepeatedField as error:
            return CorpusRow(number, problem=str(error))
        except (ValueError, RecursionError):
            return CorpusRow(number, problem="the row is not JSON")
        if not isinstance(record, dict):
            return CorpusRow(number, problem="no JSON object")
        try:
            record = plain_record(record)
        except UnreadableAnnotation as error:
            return CorpusRow(number, problem=str(error))
        return row_of(number, with_json_id(record, columns), columns)


class TsvFormat(LineFormat):
    """A table with a header and one row a line; empty lines are not rows."""

    has_header = True
    decode_errors = "surrogateescape"  # only the cells that are used must be UTF-8

    def header(self, path: Path, columns: CorpusColumns) -> tuple[str, ...]:
        return table_header(path, columns)

    def is_row(self, line: bytes) -> bool:
        return bool(line.rstrip(b"\r\n"))

    def row(self, number: int, line: str, source: SourceFile, columns: CorpusColumns) -> CorpusRow:
        return row_of_cells(number, tsv_cells(line), source.header, columns)


class CsvFormat(FileFormat):
    """A table with a header; quoted cells may hold line breaks, so that only reading all of it separates the rows."""

    def header(self, path: Path, columns: CorpusColumns) -> tuple[str, ...]:
        return table_header(path, columns)

    def cut(self, source: SourceFile, size: int) -> Iterator[RowRange]:
        end = 0

        def counted(file: Iterable[str]) -> Iterator[str]:
            nonlocal end
            for line in file:
                end += len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
                yield line

        with Path(source.path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            numbered_rows = csv_rows(source.name, counted(file))
            next(numbered_rows, None)
            rows, begin = 0, end
            for _ in numbered_rows:
                rows += 1
                if rows == size or end - begin >= MAX_PART_BYTES:
                    yield RowRange(rows, begin, end)
                    rows, begin = 0, end
        if rows:
            yield RowRange(rows, begin, end)

    def read(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> PartRows:
        text = read_bytes(source, part).decode("utf-8", "surrogateescape")
        rows = enumerate(filter(None, csv_cells(io.StringIO(text, newline=""))), part.first)
        return PartRows([row_of_cells(number, cells, source.header, columns) for number, cells in rows])


class ParquetFormat(FileFormat):
    """Columns in row groups."""

    def __init__(self) -> None:
        self._reader: RowGroupReader | None = None

    def header(self, path: Path, columns: CorpusColumns) -> tuple[str, ...]:
        names = schema_of(path).names
        require_columns(path, names, columns.text, columns.pair, columns.id)
        if is_whole(names, columns.text):
            return tuple(names)
        pair = columns.pair or (PAIR if PAIR in names and not columns.text else None)
        return tuple(dict.fromkeys(filter(None, (columns.text or TEXT, pair, columns.id))))

    def id_type(self, path: Path, columns: CorpusColumns) -> str:
        return str(schema_of(path).field(columns.id).type) if columns.id else ""

    def cut(self, source: SourceFile, size: int) -> Iterator[RowRange]:
        group = first = rows = n_bytes = 0
        for next_group, sizes in row_sizes(source.path, source.header):
            if next_group != group:
                if rows:
                    yield RowRange(rows, group, first)
                group, first, rows, n_bytes = next_group, 0, 0, 0
            for row_bytes in sizes:
                rows, n_bytes = rows + 1, n_bytes + row_bytes
                if rows == size or n_bytes >= MAX_PART_BYTES:
                    yield RowRange(rows, group, first)
                    first, rows, n_bytes = first + rows, 0, 0
        if rows:
            yield RowRange(rows, group, first)

    def read(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> PartRows:
        table = self._open(source, part).take(part.end, part.rows)
        if columns.id is None:
            return PartRows([row_of(number, row, columns) for number, row in enumerate(table.to_pylist(), part.first)])
        ids = table[columns.id].combine_chunks()
        questions = table.to_pylist() if table.num_columns == 1 else table.drop_columns([columns.id]).to_pylist()
        rows = [
            row_of(number, {**question, columns.id: row_id}, columns)
            for number, (question, row_id) in enumerate(zip(questions, ids_of_column(ids), strict=True), part.first)
        ]
        return PartRows(rows, ids)

    def _open(self, source: SourceFile, part: CorpusPart) -> RowGroupReader:
        """Return the reader of a part's row group; the next part of a worker is often further on in the same one."""
        reader = self._reader
        if reader is None or reader.key != (source.path, part.begin, source.header) or reader.position > part.end:
            if reader is not None:
                reader.close()
            reader = self._reader = RowGroupReader(source.path, part.begin, source.header)
        return reader


class JsonFormat(FileFormat):
    """A JSON list, or an export that is read as a whole: its records are counted, and kept for the next part."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._records: list[Record] = []

    def cut(self, source: SourceFile, size: int) -> Iterator[RowRange]:
        n_records = len(self._read(source))
        for begin in range(0, n_records, size):
            end = min(begin + size, n_records)
            yield RowRange(end - begin, begin, end)

    def read(self, source: SourceFile, part: CorpusPart, columns: CorpusColumns) -> PartRows:
        chosen = enumerate(self._read(source)[part.begin : part.end], part.first)
        return PartRows([row_of(number, with_json_id(record, columns), columns) for number, record in chosen])

    def _read(self, source: SourceFile) -> list[Record]:
        key = (source.path, source.changed_ns)
        if self._key != key:
            with Path(source.path).open("rb") as file:
                self._records = [record for _, record in read_json(source.name, file)]
            self._key = key
        return self._records


FORMATS: dict[str, FileFormat] = {
    ".txt": LineFormat(),
    ".json": JsonFormat(),
    ".jsonl": JsonLinesFormat(),
    ".csv": CsvFormat(),
    ".tsv": TsvFormat(),
    ".parquet": ParquetFormat(),
}


def with_json_id(record: Record, columns: CorpusColumns) -> Record:
    """Return a record of JSON with its id as the output holds it."""
    name = columns.id
    return record if name is None or name not in record else {**record, name: id_of(record[name])}


def read_bytes(source: SourceFile, part: CorpusPart) -> bytes:
    """Read the bytes of a part."""
    with Path(source.path).open("rb") as file:
        file.seek(part.begin)
        return file.read(part.end - part.begin)


def table_header(path: Path, columns: CorpusColumns) -> tuple[str, ...]:
    """Return the header of a CSV or TSV file."""
    header = delimited_header(path)
    require_columns(path, header, columns.text, columns.pair, columns.id)
    return tuple(header)


def row_of_cells(number: int, cells: Sequence[str], header: Sequence[str], columns: CorpusColumns) -> CorpusRow:
    """Return the row of a table's cells."""
    record = dict(zip(header, cells, strict=False))
    if is_whole(header, columns.text):
        used = list(record.values())
    else:
        names = (columns.text or TEXT, columns.pair or PAIR, columns.id)
        used = [cell for name, cell in record.items() if name in names]
    if len(cells) != len(header):
        return CorpusRow(number, problem=f"the row has {len(cells)} cells, the header {len(header)}")
    if any(map(is_not_utf8, used)):
        return CorpusRow(number, problem=NOT_UTF8)
    return row_of(number, record, columns)


def is_not_utf8(cell: str | None) -> bool:
    """Tell whether a cell holds bytes that are not UTF-8, as surrogateescape decodes them."""
    return cell is not None and not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell)
