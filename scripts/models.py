#!/usr/bin/env python3
"""See and change what a running TorchServe serves, through its management API.

A model counts as ready when all its workers have loaded it and one real prediction answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scripts.cli.console import ScriptError, run, say
from scripts.client.http import Management
from scripts.client.questions import add_sources
from scripts.client.server import NotRunning, Refused, Server, UnknownModel, add_options
from scripts.operations import draining
from scripts.operations.commands import Call, Command, show
from scripts.operations.readiness import Failures, problem_of
from scripts.operations.rollout import add_rollout_options, promote, rollback
from scripts.operations.shadow import mirror

NOT_READY, NOT_RUNNING = 1, 3  # exit codes of `status`


def main() -> int | None:
    """Parse the command line and run one command."""
    arguments = parse_arguments()
    server = Server.of(arguments)
    command: Command = arguments.command
    return command(Call(arguments, server, Management(server)))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        told = (command.__doc__ or "").partition("\n")[0]
        new = commands.add_parser(name, help=told, description=told)
        new.set_defaults(command=command)
        add_options(new)
        return new

    add("list", list_models)

    new = add("status", status)
    new.add_argument("models", nargs="*", metavar="NAME", help="models that must be there (default: all that are)")
    new.add_argument("--archives", nargs="+", default=[], metavar="FILE", help="the same, by archives of the store")
    new.add_argument("--wait", action="store_true", help="wait while models load")
    new.add_argument("--log-from", type=int, default=0, metavar="BYTE", help="look for reasons in the log from here on")

    new = add("describe", describe)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--version", help="default: the default version")

    new = add("register", register)
    new.add_argument("archive", metavar="NAME[.mar]", help="an archive of the model store")
    new.add_argument("--initial-workers", type=int, metavar="N", help="default: minWorkers of the archive")
    new.add_argument("--batch-size", type=int, metavar="N", help="default: batchSize of the archive")
    new.add_argument("--max-batch-delay", type=int, metavar="MS", help="default: maxBatchDelay of the archive")

    new = add("scale", scale)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--min", type=int, required=True, metavar="N", help="workers to run")
    new.add_argument("--max", type=int, metavar="N", help="default: as --min")
    new.add_argument("--version", help="default: the default version")

    new = add("default", set_default)
    new.add_argument("name", metavar="NAME")
    new.add_argument("version", metavar="VERSION")

    new = add("unregister", unregister)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--version", help="default: the default version")

    new = add("promote", promote)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--version", required=True, help="that shall serve")
    new.add_argument("--archive", type=Path, metavar="FILE", help="that holds it (default: NAME.mar of the store)")
    add_rollout_options(new)

    new = add("rollback", rollback)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--version", help="default: the one that is kept")
    add_rollout_options(new)

    new = add("shadow", mirror)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--candidate", required=True, metavar="VERSION", help="that might serve")
    new.add_argument("--serving", metavar="VERSION", help="to compare it with (default: the default version)")
    new.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_sources(new)

    new = add("idle", idle)
    new.add_argument("--within", type=float, default=30, metavar="SECONDS", help="give up after this (default: 30)")
    return parser.parse_args()


def list_models(call: Call) -> None:
    """List every version of every model."""
    show(call.management.models())


def status(call: Call) -> int:
    """Exit with 0 when every model is ready, with 1 when not, with 3 when no server is running."""
    try:
        models = call.management.models()
    except NotRunning as error:
        say(str(error))
        return NOT_RUNNING
    failures = Failures(call.server, call.arguments.log_from)
    missing = set(call.arguments.models) - {model.name for model in models}
    missing |= set(call.arguments.archives) - {model.archive for model in models}
    for name in sorted(missing):
        say(f"{name} could not be registered: {failures.of_archive(name) or 'see the log of the server'}")
    if call.arguments.models or call.arguments.archives:
        asked = {*call.arguments.models, *call.arguments.archives}
        models = [model for model in models if asked & {model.name, model.archive}]
    problems = 0
    for model in models:
        problem = problem_of(model, call.management, failures, wait=call.arguments.wait)
        if problem:
            say(f"{model.name} {model.version} is not ready: {problem}")
            problems += 1
    show([call.management.model(model.name, model.version) for model in models])
    return NOT_READY if missing or problems or not models else 0


def describe(call: Call) -> None:
    """Print what a model is: task, labels, limits, precision, hashes, OpenAPI document."""
    print(
        json.dumps(call.management.describe(call.arguments.name, call.arguments.version), indent=2, ensure_ascii=False)
    )


def register(call: Call) -> None:
    """Register an archive of the model store and wait until it is ready; one that fails is unregistered again."""
    archive = call.arguments.archive if call.arguments.archive.endswith(".mar") else f"{call.arguments.archive}.mar"
    failures = Failures.from_now(call.server)
    try:
        name, version = call.management.register(
            archive,
            initial_workers=call.arguments.initial_workers,
            batch_size=call.arguments.batch_size,
            max_batch_delay=call.arguments.max_batch_delay,
        )
    except Refused as refusal:
        if refusal.kind == "ConflictStatusException":
            raise ScriptError(f"{refusal.message}: scripts/models.py unregister removes it") from refusal
        if isinstance(refusal, UnknownModel):
            raise ScriptError(f"no {archive} in the server's model store: scripts/package.py makes one") from refusal
        raise
    if call.arguments.initial_workers:  # TorchServe prefers the archive's minWorkers
        call.management.scale(name, version, call.arguments.initial_workers, call.arguments.initial_workers)
    model = call.management.model(name, version)
    problem = problem_of(model, call.management, failures, wait=True)
    if problem:
        call.management.unregister(name, version)
        raise ScriptError(f"{name} {version} did not become ready and was unregistered: {problem}")
    show([call.management.model(name, version)])


def scale(call: Call) -> None:
    """Set the number of workers of a model and wait until they are ready."""
    failures = Failures.from_now(call.server)
    version = call.arguments.version or call.management.default_version(call.arguments.name)
    call.management.scale(call.arguments.name, version, call.arguments.min, call.arguments.max or call.arguments.min)
    model = call.management.model(call.arguments.name, version)
    problem = problem_of(model, call.management, failures, wait=True) if call.arguments.min else ""
    if problem:
        raise ScriptError(f"{call.arguments.name} {version} is not ready: {problem}")
    show([call.management.model(call.arguments.name, version)])


def set_default(call: Call) -> None:
    """Send the requests that name no version to another version."""
    call.management.set_default(call.arguments.name, call.arguments.version)
    say(f"{call.arguments.name}: requests without a version now go to {call.arguments.version}")


def unregister(call: Call) -> None:
    """Remove a version of a model; requests in its queue are lost, so let it become idle first."""
    try:
        call.management.unregister(call.arguments.name, call.arguments.version)
    except Refused as refusal:
        if refusal.kind == "InvalidModelVersionException":
            raise ScriptError(
                f"{refusal.message}: first give it another one with scripts/models.py default"
            ) from refusal
        raise
    say(f"{call.arguments.name} {call.arguments.version or ''}".rstrip() + " unregistered")


def idle(call: Call) -> int:
    """Wait until no request waits or runs; exit with 1 when some still do."""
    return 0 if draining.idle(call.management, call.management.models, call.arguments.within) else NOT_READY


if __name__ == "__main__":
    run(main)
