"""The output file of one part: each row's file, number, id, and answer or error, as JSON lines or Parquet.

In JSON lines embeddings have the nine digits of fp32, as in the servers' answers.
In Parquet an answer has the columns of the task's schema; answers that differ in their types, e.g. of texts with one
mask and with two, are JSON texts. Ids are as scripts/scoring/ids.py says.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.protocol import JSON, as_lists, is_array
from scripts.cli.console import ScriptError
from scripts.client.answers import is_error, json_line
from scripts.scoring.answer_schema import AnswerSchema, arrow
from scripts.scoring.ids import text_of
from scripts.scoring.rows import CorpusRow


@dataclass(frozen=True)
class ScoredRow:
    """One row of an output file, without its answer."""

    file: str
    row: int
    error: str  # its type; empty for an answer


class OutputFormat(ABC):
    """A format of output files."""

    suffix: str

    @abstractmethod
    def write(
        self,
        path: Path,
        file: str,
        rows: Sequence[CorpusRow],
        answers: Sequence[JSON],
        schema: AnswerSchema,
        ids: Any = None,
    ) -> None:
        """Write the rows of one part of an input file; `ids` is a column of Arrow whose type the output keeps."""

    @abstractmethod
    def read(self, path: Path) -> Iterator[ScoredRow]:
        """Read the rows of an output file."""


class JsonLinesOutput(OutputFormat):
    """One JSON object a line."""

    suffix = ".jsonl"

    def write(
        self,
        path: Path,
        file: str,
        rows: Sequence[CorpusRow],
        answers: Sequence[JSON],
        schema: AnswerSchema,
        ids: Any = None,
    ) -> None:
        from handler.protocol.numbers import write_vectors

        vectors = write_vectors([answer for answer in answers if is_array(answer) and answer.ndim == 1])
        with path.open("wb") as output:
            for row, answer in zip(rows, answers, strict=True):
                identity = {"file": file, "row": row.number} | ({"id": row.id} if schema.ids else {})
                if is_array(answer):
                    embedding = next(vectors) if answer.ndim == 1 else f"[{','.join(write_vectors(answer))}]"
                    output.write(b'%s, "answer": %s}\n' % (json_line(identity)[:-2], embedding.encode("ascii")))
                else:
                    output.write(json_line(identity | (answer if is_error(answer) else {"answer": answer})))

    def read(self, path: Path) -> Iterator[ScoredRow]:
        with path.open("rb") as file:
            for line in file:
                row = json.loads(line)
                error = row["error"]["type"] if is_error(row) else "" if "answer" in row else "neither"
                yield ScoredRow(row["file"], row["row"], error)


class ParquetOutput(OutputFormat):
    """Columns in a Parquet file."""

    suffix = ".parquet"

    def write(
        self,
        path: Path,
        file: str,
        rows: Sequence[CorpusRow],
        answers: Sequence[JSON],
        schema: AnswerSchema,
        ids: Any = None,
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        written: list[JSON] = [None if is_error(answer) else as_lists(answer) for answer in answers]
        if not schema.answer:
            written = [None if answer is None else json.dumps(answer, ensure_ascii=False) for answer in written]
        error = {"code": pa.int64(), "type": pa.string(), "message": pa.string()}
        columns: dict[str, tuple[list[JSON], Any]] = {
            "file": ([file] * len(rows), pa.string()),
            "row": ([row.number for row in rows], pa.int64()),
            "answer": (written, arrow(json.loads(schema.answer)) if schema.answer else pa.string()),
            "error": ([answer["error"] if is_error(answer) else None for answer in answers], pa.struct(error)),
        }
        if schema.ids:
            columns["id"] = ([text_of(row.id) for row in rows], pa.string())
        try:
            arrays = {name: pa.array(values, type=kind) for name, (values, kind) in columns.items()}
            table = pa.table(arrays if ids is None else arrays | {"id": ids})
        except (pa.ArrowException, UnicodeEncodeError) as problem:  # its message would quote an answer
            raise ScriptError(f"answers that do not fit into columns ({type(problem).__name__}): use jsonl") from None
        pq.write_table(table, path, compression="zstd")

    def read(self, path: Path) -> Iterator[ScoredRow]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            table = file.read(columns=["file", "row", "error.type"])
        for row in table.to_pylist():
            error = row["error"]["type"] if row["error"] else ""
            yield ScoredRow(row["file"], row["row"], error)


OUTPUTS: dict[str, OutputFormat] = {"parquet": ParquetOutput(), "jsonl": JsonLinesOutput()}
