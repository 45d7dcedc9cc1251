"""Name the labels of a classifier whose config.json has none, or only LABEL_0 and on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler import protocol
from handler.errors import MalformedBody
from handler.labels import CLASSIFIERS
from scripts.cli.console import ScriptError, say


def is_file(value: str) -> bool:
    """Tell whether names are those in a file; a long list of them is longer than a path can be."""
    try:
        return Path(value).is_file()
    except OSError:
        return False


def read_names(value: str) -> list[str]:
    """Return the names that an option gives, between commas, or one a line in the file that it names.

    >>> read_names("joy, calm")
    ['joy', 'calm']
    """
    where, names = "--labels", value.split(",")
    if is_file(value):
        where = f"--labels {value}"
        try:
            names = Path(value).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ScriptError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    names = [name.strip() for name in names]
    if names[-1:] == [""]:
        names.pop()
    if not all(names):
        raise ScriptError(f"{where}: label {names.index('')} has no name")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ScriptError(f"{where}: {repeated} is there twice")
    if not names:
        raise ScriptError(f"{where}: no name")
    return names


def with_names(config_file: Path, names: list[str]) -> Mapping[str, Any]:
    """Return the content of a config.json with these names of labels, by the number of the head's outputs.

    Raises:
        ScriptError: a model without labels, or with another number of them.
    """
    try:
        config = protocol.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, MalformedBody) as error:
        raise ScriptError(f"config.json cannot be read: {error}") from None
    if not isinstance(config, dict) or not any(
        str(name).endswith(CLASSIFIERS) for name in config.get("architectures") or []
    ):
        raise ScriptError("--labels is for a model that classifies texts or tokens, which config.json does not name")
    before = _names(config)
    number = config.get("num_labels") or len(before) or 2  # the default of transformers
    if number != len(names):
        raise ScriptError(f"--labels names {len(names)} labels, the model has {number}")
    if before not in ([], names, [f"LABEL_{index}" for index in range(number)]):
        say(f"note: config.json names the labels {', '.join(map(str, before))}, --labels renames them")
    by_index = {str(index): name for index, name in enumerate(names)}
    named = config | {"id2label": by_index, "label2id": {name: index for index, name in enumerate(names)}}
    named.pop("num_labels", None)
    return named


def _names(config: Mapping[str, Any]) -> list[Any]:
    """Return the names that config.json gives, in their order where it has one."""
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels:
        return [name for _, name in sorted(labels.items(), key=lambda item: (len(str(item[0])), str(item[0])))]
    labels = config.get("label2id")
    return sorted(labels, key=lambda name: str(labels[name]).zfill(9)) if isinstance(labels, dict) else []
