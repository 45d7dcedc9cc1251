#!/usr/bin/env python3
"""See and change what a running server serves, TorchServe or the standalone one, through its management API.

A model counts as ready when all its workers have loaded it and one real prediction answers.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from scripts.cli.console import ROOT
from scripts.cli.options import natural_float, natural_int, path_name, positive_int
from scripts.client.http import Management
from scripts.client.questions import add_sources
from scripts.client.server import Server, add_options
from scripts.operations.commands import (
    accept,
    describe,
    idle,
    list_models,
    register,
    scale,
    set_default,
    status,
    unregister,
    verify,
)
from scripts.operations.context import Command, CommandContext
from scripts.operations.evaluations import add_evaluation_options
from scripts.operations.rollout import add_rollout_options, promote, rollback
from scripts.operations.shadow import shadow


def main() -> int | None:
    """Parse the command line and run one command."""
    arguments = parse_arguments()
    server = Server.of(arguments)
    command: Command = arguments.command
    return command(CommandContext(arguments, server, Management(server)))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        summary = (command.__doc__ or "").partition("\n")[0]
        options = commands.add_parser(name, help=summary, description=summary)
        options.set_defaults(command=command)
        add_options(options)
        return options

    add("list", list_models)

    options = add("status", status)
    options.add_argument("models", nargs="*", metavar="NAME", help="models that must be there (default: all that are)")
    options.add_argument("--archives", nargs="+", default=[], metavar="FILE", help="the same, by archives of the store")
    options.add_argument("--wait", action="store_true", help="wait while models load")
    options.add_argument(
        "--log-from", type=natural_int, default=0, metavar="BYTE", help="look for reasons in the log from here on"
    )

    options = add("describe", describe)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--version", help="default: the default version")

    options = add("register", register)
    options.add_argument(
        "archive",
        metavar="NAME[.mar]",
        help="an archive of the model store, or one of a registry that is put there first: models:/NAME/VERSION, "
        "models:/NAME@ALIAS (server: MLFLOW_TRACKING_URI), oci://HOST/REPOSITORY:TAG or ...@sha256:DIGEST",
    )
    options.add_argument("--initial-workers", type=positive_int, metavar="N", help="default: minWorkers of the archive")
    options.add_argument("--batch-size", type=positive_int, metavar="N", help="default: batchSize of the archive")
    options.add_argument(
        "--max-batch-delay", type=positive_int, metavar="MS", help="default: maxBatchDelay of the archive"
    )

    options = add("verify", verify)
    options.add_argument("archives", nargs="+", metavar="[NAME=]FILE", help="archives of the model store")
    options.add_argument("--model-store", type=path_name, default=ROOT / "model_store", metavar="DIR")
    options.add_argument("--provenance", action="store_true", help="refuse an archive without one")
    options.add_argument("--copy-to", type=path_name, metavar="DIR", help="put what was checked there, as copies")

    options = add("accept", accept)
    options.add_argument("archives", nargs="+", metavar="FILE", help="archives of the model store")
    options.add_argument("--model-store", type=path_name, metavar="DIR", help="default: that of the running server")

    options = add("scale", scale)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--min", type=natural_int, required=True, metavar="N", help="workers to run")
    options.add_argument("--max", type=natural_int, metavar="N", help="default: as --min")
    options.add_argument("--version", help="default: the default version")

    options = add("default", set_default)
    options.add_argument("name", metavar="NAME")
    options.add_argument("version", metavar="VERSION")

    options = add("unregister", unregister)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--version", help="default: the default version")

    options = add("promote", promote)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--version", required=True, help="that shall serve")
    options.add_argument(
        "--archive", type=path_name, metavar="FILE", help="that holds it (default: NAME.mar of the store)"
    )
    add_rollout_options(options)
    options.add_argument(
        "--gate", type=path_name, metavar="FILE", help="limits of an evaluation, see docs/evaluation.md"
    )
    add_evaluation_options(options)

    options = add("rollback", rollback)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--version", help="default: the one that is kept")
    add_rollout_options(options)

    options = add("shadow", shadow)
    options.add_argument("name", metavar="NAME")
    options.add_argument("--candidate", required=True, metavar="VERSION", help="that might serve")
    options.add_argument("--serving", metavar="VERSION", help="to compare it with (default: the default version)")
    options.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_sources(options)
    add_evaluation_options(options)

    options = add("idle", idle)
    options.add_argument(
        "--within", type=natural_float, default=30, metavar="SECONDS", help="give up after this (default: 30)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
