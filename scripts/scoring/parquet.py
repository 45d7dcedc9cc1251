"""Parquet files of a corpus: row groups cut by rows and bytes, and read in order without holding a row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scripts.cli.console import ScriptError
from scripts.readers.formats import refuse_repeated

BATCH = 256  # rows that are decoded at once


class RowGroupReader:
    """Rows of one row group; parts in order are read in one pass."""

    def __init__(self, path: str, group: int, columns: tuple[str, ...]) -> None:
        import pyarrow.parquet as pq

        self.key = (path, group, columns)
        self.position = 0  # of the next row
        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(BATCH, row_groups=[group], columns=list(columns))
        self._rest = self._file.schema_arrow.empty_table().select(list(columns))

    def take(self, offset: int, rows: int) -> Any:
        """Return rows as a table; `offset` must not be below `position`."""
        import pyarrow as pa

        chosen = []
        end = offset + rows
        while self.position < end:
            if not self._rest.num_rows:
                batch = next(self._batches, None)
                if batch is None:
                    break
                self._rest = pa.Table.from_batches([batch])
            start = min(max(0, offset - self.position), self._rest.num_rows)
            stop = min(end - self.position, self._rest.num_rows)
            if start < stop:
                chosen.append(self._rest.slice(start, stop - start))
            self.position += stop
            self._rest = self._rest.slice(stop)
        return pa.concat_tables(chosen) if chosen else self._rest.slice(0, 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def schema_of(path: Path) -> Any:
    """Return the Arrow schema of a file; raises ScriptError where it is not Parquet, or has a column twice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except pa.ArrowException:
        raise ScriptError(f"{path} is no Parquet file, or a broken one") from None
    refuse_repeated(str(path), schema.names)
    return schema


def row_sizes(path: str, columns: tuple[str, ...]) -> Iterator[tuple[int, list[int]]]:
    """Yield (row group, decoded bytes of consecutive rows): encoded sizes say little, as a dictionary may repeat."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.metadata.num_row_groups):
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=list(columns)):
                yield group, sum(map(_sizes, batch.columns), np.zeros(batch.num_rows, np.int64)).tolist()


def _sizes(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    binary = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if any(is_kind(kind) for is_kind in binary):
        return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(len(column), -(-column.nbytes // max(1, len(column))), np.int64)
