"""The files of a corpus, and the parts that they are cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.cli.console import ScriptError
from scripts.readers.formats import unknown_format
from scripts.scoring.formats import FORMATS, FileFormat
from scripts.scoring.rows import CorpusColumns, CorpusPart, SourceFile


def sources(inputs: Sequence[Path], columns: CorpusColumns, output: Path | None = None) -> tuple[SourceFile, ...]:
    """Return the files to score, those of a folder in the order of their names.

    Args:
        output: the folder of the answers, which may lie in one of the inputs and is no part of it.
    """
    files: dict[str, SourceFile] = {}
    for entry in inputs:
        inside = [entry]
        if entry.is_dir():
            inside = sorted(file for file in entry.rglob("*") if file.suffix.lower() in FORMATS)
            if output is not None and output.resolve() != entry.resolve():
                inside = [file for file in inside if not file.resolve().is_relative_to(output.resolve())]
        if not inside:
            raise ScriptError(f"no file in {entry} ends in one of {', '.join(FORMATS)}")
        for file in inside:
            file_format = FORMATS.get(file.suffix.lower())
            if file_format is None:
                raise unknown_format(file, FORMATS)
            stat = file.stat()
            header, id_type = file_format.header(file, columns), file_format.id_type(file, columns)
            path = str(file.resolve())
            files[str(file)] = SourceFile(str(file), path, stat.st_size, stat.st_mtime_ns, header, id_type)
    return tuple(files.values())


def format_of(source: SourceFile) -> FileFormat:
    """Return the format of a file, by its suffix."""
    return FORMATS[Path(source.path).suffix.lower()]


def parts(files: Sequence[SourceFile], size: int) -> Iterator[CorpusPart]:
    """Cut files into parts of at most `size` rows; raises ScriptError for a file whose rows cannot be separated."""
    for index, source in enumerate(files):
        first = 0
        for span in format_of(source).cut(source, size):
            yield CorpusPart(index, first, span.rows, span.begin, span.end)
            first += span.rows
