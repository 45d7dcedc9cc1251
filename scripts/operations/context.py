"""The context of a command of scripts/models.py, and the table of models that most of them end with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.cli.console import say, table
from scripts.client.http import Management, Model
from scripts.client.server import Server


@dataclass(frozen=True)
class CommandContext:
    """The options of one command, and the server that it is for."""

    arguments: argparse.Namespace
    server: Server
    management: Management


Command = Callable[[CommandContext], int | None]


def print_models(models: Sequence[Model]) -> None:
    """Print models as a table."""
    if not models:
        say("no model is registered: scripts/models.py register NAME")
        return
    header = ["model", "version", "default", "workers", "batch", "delay", "waiting", "state"]
    rows = [
        [
            model.name,
            model.version,
            "yes" if model.default else "",
            f"{model.ready}/{model.min_workers}",
            model.batch_size,
            f"{model.max_batch_delay} ms",
            model.waiting,
            model.state,
        ]
        for model in models
    ]
    table(header, rows)
