"""The options that say which model is meant: a local folder, an id of the hub, an adapter, pickled weights."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelRequest:
    """What a person says of the model to open."""

    model: str
    revision: str | None = None
    base_model: str | None = None  # of an adapter, instead of the one that it names
    convert_pickle: bool = False
    labels: str | None = None  # names, or a file of names, instead of those in config.json

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> ModelRequest:
        """Return what the options of `add_options` say."""
        return cls(
            arguments.model,
            arguments.revision,
            arguments.base_model,
            arguments.convert_pickle,
            getattr(arguments, "labels", None),
        )


def add_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that, beside --model, say which model is meant."""
    add = parser.add_argument
    add("--revision", metavar="R", help="branch, tag or commit of a hub id (default: its main branch)")
    add(
        "--convert-pickle",
        action="store_true",
        help="read pickled weights too: tensors alone, converted to safetensors",
    )
    add("--base-model", metavar="DIR|ID", help="of an adapter, instead of the base model that it names")


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the labels of a classifier."""
    parser.add_argument(
        "--labels",
        metavar="NAME,...|FILE",
        help="names of a classifier's labels, in their order, instead of those in config.json (e.g. LABEL_0); or a "
        "file with one a line",
    )
