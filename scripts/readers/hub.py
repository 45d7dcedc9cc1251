"""Datasets of the Hugging Face hub, or of a local folder in the layout that the datasets library understands.

The library decides which files belong to which split. CSV, TSV, JSON, Parquet and plain lines are then read by the
readers of this package, so that a cell is what the file says: the library would turn the label 001 of a CSV into 1,
true into True and None into a missing value. Other formats are read by the library; their rows are numbered from 0, as
in the hub's viewer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from scripts.cli.console import ScriptError, say
from scripts.readers.formats import Reader, Record, read_csv
from scripts.readers.tables import Table, concatenate, label_name, read_stream

ReadersFor = Callable[[Path], Mapping[str, Reader]]
READABLE = {"csv", "json", "text", "conll", "parquet"}  # names of the library's builders
COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}
# Fields of a builder's config that do not change what a file says.
NEUTRAL_OPTIONS = {"name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter"}


def read_dataset(name: str, config: str | None, readers_for: ReadersFor) -> dict[str, Table]:
    """Read every split of a dataset; `readers_for` returns the readers of a file's name by suffix."""
    import datasets
    import huggingface_hub
    import pyarrow
    import yaml

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs as an error what it then raises
    say(f"reading {name}")
    errors = (datasets.exceptions.DatasetsError, pyarrow.ArrowException, yaml.YAMLError, OSError, ImportError)
    try:
        if Path(name, "state.json").is_file():  # of save_to_disk, one split without a name
            return {"train": to_table(f"{without_parents(name)}[train]", datasets.load_from_disk(name))}
        builder = datasets.load_dataset_builder(name, config)
        if is_readable(builder):
            files = downloaded(builder, Path(name).is_dir())
            return {split: file_table(name, split, paths, builder, readers_for) for split, paths in files.items()}
        splits = datasets.load_dataset(name, config)
        return {split: to_table(f"{without_parents(name)}[{split}]", rows) for split, rows in splits.items()}
    except (*errors, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ScriptError(f"dataset {name}: {reason_of(error, name)}") from None


def reason_of(error: BaseException, name: str) -> str:
    """Return one line about an error of the datasets library: the first line of its first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip().splitlines()
    reason = message[0] if message else type(error).__name__
    if Path(name).is_dir():
        return f"the datasets library cannot read this folder: {reason}"
    return f"not a local folder, and the hub did not provide it: {reason}"


# --- files that this package reads -----------------------------------------------------------------------------------


def is_readable(builder: Any) -> bool:
    """Return whether the readers of this package read the dataset's files as its card says."""
    kind = type(builder).__module__.split(".")[-1]
    if kind not in READABLE or not builder.config.data_files:
        return False
    default = type(builder.config)()
    options = {field.name for field in fields(builder.config)} - NEUTRAL_OPTIONS
    changed = sorted(name for name in options if getattr(builder.config, name) != getattr(default, name))
    if changed:
        say(f"read by the datasets library, which infers types, because the card sets {', '.join(changed)}")
        return False
    return True


def downloaded(builder: Any, is_local: bool) -> dict[str, list[tuple[str, Path]]]:
    """Return the names and the local paths of the files of every split."""
    urls = {str(split): [str(file) for file in files] for split, files in builder.config.data_files.items()}
    if is_local and not any(Path(url).suffix in COMPRESSED for split_urls in urls.values() for url in split_urls):
        return {split: [(Path(url).name, Path(url)) for url in split_urls] for split, split_urls in urls.items()}
    import datasets

    manager = datasets.DownloadManager(dataset_name=builder.dataset_name, base_path=builder.base_path)
    paths = manager.download_and_extract(urls)
    return {
        split: [(uncompressed(url), Path(path)) for url, path in zip(urls[split], paths[split], strict=True)]
        for split in urls
    }


def uncompressed(url: str) -> str:
    """Return a file's name without folders and the suffix of its compression.

    >>> uncompressed("hf://datasets/me/data@1a2b/train.csv.gz")
    'train.csv'
    """
    path = PurePosixPath(url)
    return path.stem if path.suffix in COMPRESSED else path.name


def file_table(
    name: str, split: str, files: Iterable[tuple[str, Path]], builder: Any, readers_for: ReadersFor
) -> Table:
    """Read the files of one split."""
    tables = []
    for file_name, path in files:
        file_readers = readers_for(Path(file_name))
        reader = file_readers.get(Path(file_name).suffix.lower())
        if reader is None:
            raise ScriptError(f"dataset {name}: {file_name}: the name must end in one of {', '.join(file_readers)}")
        if reader is read_csv:
            reader = partial(read_csv, delimiter=getattr(builder.config, "sep", None) or ",")
        tables.append(read_stream(file_name, path, reader))
    table = concatenate(f"{without_parents(name)}[{split}]", tables)
    for column, feature in (builder.info.features or {}).items():
        names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if names and column in table.header:
            table = with_class_names(table, column, names)
    return table


def with_class_names(table: Table, column: str, names: list[str]) -> Table:
    """Apply the class names of a dataset's card: a cell is one of them, or its number; -1 is a withheld label."""
    cells = [record.get(column) for _, record in table.rows]
    values = {label_name(value) for cell in cells for value in (cell if isinstance(cell, list) else [cell])}
    if values <= {*names, ""}:
        return table
    by_number: dict[str, str | None] = {str(number): name for number, name in enumerate(names)} | {"-1": None}

    def decode(row: int, cell: object) -> object:
        if isinstance(cell, list):
            return [decode(row, value) for value in cell]
        if cell is None or label_name(cell) == "":
            return cell
        if label_name(cell) not in by_number:
            expected = f"one of the {len(names)} classes that the dataset's card names, or a number from 0"
            raise table.error(row, column, f"the label is not {expected} to {len(names) - 1}")
        return by_number[label_name(cell)]

    rows = tuple((row, {**record, column: decode(row, record.get(column))}) for row, record in table.rows)
    return replace(table, rows=rows)


# --- files that the library reads ------------------------------------------------------------------------------------


def without_parents(name: str) -> str:
    """Return a hub id or a folder's name, without the path that leads to the folder on this machine.

    >>> without_parents("/home/me/models/base"), without_parents("bert-base-uncased")
    ('base', 'bert-base-uncased')
    """
    return Path(name).name if Path(name).is_absolute() else name


def to_table(name: str, split: Any) -> Table:
    """Return one split with its class numbers replaced by their names."""
    decoders = {column: class_decoder(feature) for column, feature in split.features.items()}
    rows: tuple[tuple[int, Record], ...] = tuple(
        (i, {c: decoders[c](cell) for c, cell in record.items()}) for i, record in enumerate(split)
    )
    digest = hashlib.sha256()
    for _, record in rows:
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return Table(name, digest.hexdigest(), tuple(split.column_names), rows)


def class_decoder(feature: Any) -> Callable[[Any], object]:
    """Return a function from a cell of this feature to class names; a negative class is a withheld label."""
    if hasattr(feature, "int2str"):
        return lambda cell: None if cell is None or cell < 0 else feature.int2str(cell)
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):
        return lambda cells: [inner.int2str(cell) for cell in cells]
    return lambda cell: cell
