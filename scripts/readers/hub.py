"""Datasets of the Hugging Face hub, or of a local folder in a form that the datasets library understands.

Row numbers start at 0, as in the hub's viewer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError, say
from scripts.readers.tables import Table


def read_dataset(name: str, config: str | None) -> dict[str, Table]:
    """Read every split of a dataset."""
    import datasets
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    say(f"reading {name}")
    try:
        splits = datasets.load_dataset(name, config)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScriptError(f"dataset {name}: not a local folder, and the hub did not provide it: {reason}") from None
    return {split: to_table(f"{without_parents(name)}[{split}]", rows) for split, rows in splits.items()}


def without_parents(name: str) -> str:
    """Return a hub id or a folder's name, without the path that leads to the folder on this machine.

    >>> without_parents("/home/me/models/base"), without_parents("bert-base-uncased")
    ('base', 'bert-base-uncased')
    """
    return Path(name).name if Path(name).is_absolute() else name


def to_table(name: str, split: Any) -> Table:
    """Return one split with its class numbers replaced by their names."""
    decoders = {column: class_decoder(feature) for column, feature in split.features.items()}
    rows = tuple((i, {c: decoders[c](cell) for c, cell in record.items()}) for i, record in enumerate(split))
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
