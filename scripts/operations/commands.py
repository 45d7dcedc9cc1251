"""The commands of scripts/models.py that look at or change one server: list, status, register, scale and others.

Promote and rollback are in rollout.py, shadow in shadow.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from scripts.archives.attestation import attestation_file, check_attestation
from scripts.archives.registered import fetch_archive, is_registered
from scripts.archives.signing import PUBLIC_KEY, check_signatures, offered, put_checked
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError, say
from scripts.client.server import NotRunning, Refused, UnknownModel
from scripts.operations.context import CommandContext, print_models
from scripts.operations.draining import wait_until_idle
from scripts.operations.readiness import FailureLog, readiness_problem

NOT_READY, NOT_RUNNING = 1, 3  # exit codes of `status`


def list_models(context: CommandContext) -> None:
    """List every version of every model."""
    print_models(context.management.models())


def status(context: CommandContext) -> int:
    """Exit with 0 when every model is ready, with 1 when not, with 3 when no server is running."""
    arguments, management = context.arguments, context.management
    try:
        models = management.models()
    except NotRunning as error:
        say(str(error))
        return NOT_RUNNING
    failure_log = FailureLog(context.server, arguments.log_from)
    missing = set(arguments.models) - {model.name for model in models}
    missing |= set(arguments.archives) - {model.archive for model in models}
    for name in sorted(missing):
        reason = failure_log.of_archive(name)
        say(
            f"{name} could not be registered: {reason}"
            if reason
            else f"{name} is not registered: scripts/models.py register adds it; if it was, see the log of the server"
        )
    if arguments.models or arguments.archives:
        selected = {*arguments.models, *arguments.archives}
        models = [model for model in models if selected & {model.name, model.archive}]
    n_problems = 0
    for model in models:
        problem = readiness_problem(model, management, failure_log, wait=arguments.wait)
        if problem:
            say(f"{model.name} {model.version} is not ready: {problem}")
            n_problems += 1
    print_models([management.model(model.name, model.version) for model in models])
    return NOT_READY if missing or n_problems or not models else 0


def describe(context: CommandContext) -> None:
    """Print what a model is: task, labels, limits, precision, hashes, OpenAPI document."""
    description = context.management.describe(context.arguments.name, context.arguments.version)
    print(json.dumps(description, indent=2, ensure_ascii=False))


def register(context: CommandContext) -> None:
    """Register an archive of the model store and wait until it is ready; one that fails is unregistered again."""
    arguments, management = context.arguments, context.management
    store = Store.of(context.server)
    archive = arguments.archive if arguments.archive.endswith(".mar") else f"{arguments.archive}.mar"
    if is_registered(arguments.archive):
        archive = fetch_archive(arguments.archive, store).file.name
    failure_log = FailureLog.from_now(context.server)
    try:
        with offered(context.server, store, store.folder / archive) as file:
            name, version = management.register(
                file,
                initial_workers=arguments.initial_workers,
                batch_size=arguments.batch_size,
                max_batch_delay=arguments.max_batch_delay,
            )
    except Refused as refusal:
        if refusal.kind == "ConflictStatusException":
            raise ScriptError(f"{refusal.message}: scripts/models.py unregister removes it") from refusal
        if isinstance(refusal, UnknownModel):
            raise ScriptError(f"no {archive} in the server's model store: scripts/package.py makes one") from refusal
        raise
    if arguments.initial_workers:  # TorchServe prefers the archive's minWorkers
        management.scale(name, version, arguments.initial_workers, arguments.initial_workers)
    problem = readiness_problem(management.model(name, version), management, failure_log, wait=True)
    if problem:
        management.unregister(name, version)
        raise ScriptError(f"{name} {version} did not become ready and was unregistered: {problem}")
    print_models([management.model(name, version)])


def verify(context: CommandContext) -> None:
    """Check that archives of a model store are those that were signed, and their provenance; no server is needed."""
    key, arguments = os.environ.get(PUBLIC_KEY), context.arguments
    if not key:
        raise ScriptError(f"{PUBLIC_KEY} names no public key")
    store = Store(arguments.model_store)
    if arguments.copy_to:
        for file in arguments.archives:
            put_checked(store, store.folder / file, arguments.copy_to)
    else:
        check_signatures(store, arguments.archives)
    for file in arguments.archives:
        archive = Archive.read(arguments.model_store / file)
        if arguments.provenance or attestation_file(archive).is_file():
            say(f"{file}: {check_attestation(archive, Path(key))}")
    say(f"signed: {', '.join(arguments.archives)}")


def scale(context: CommandContext) -> None:
    """Set the number of workers of a model and wait until they are ready."""
    arguments, management = context.arguments, context.management
    failure_log = FailureLog.from_now(context.server)
    version = arguments.version or management.default_version(arguments.name)
    management.scale(arguments.name, version, arguments.min, arguments.max or arguments.min)
    model = management.model(arguments.name, version)
    problem = readiness_problem(model, management, failure_log, wait=True) if arguments.min else ""
    if problem:
        raise ScriptError(f"{arguments.name} {version} is not ready: {problem}")
    print_models([management.model(arguments.name, version)])


def set_default(context: CommandContext) -> None:
    """Send the requests that name no version to another version."""
    context.management.set_default(context.arguments.name, context.arguments.version)
    say(f"{context.arguments.name}: requests without a version now go to {context.arguments.version}")


def unregister(context: CommandContext) -> None:
    """Remove a version of a model; requests in its queue are lost, so let it become idle first."""
    name, version = context.arguments.name, context.arguments.version
    try:
        context.management.unregister(name, version)
    except Refused as refusal:
        if refusal.kind == "InvalidModelVersionException":
            raise ScriptError(
                f"{refusal.message}: first give it another one with scripts/models.py default"
            ) from refusal
        raise
    say(f"{name} {version or ''}".rstrip() + " unregistered")


def idle(context: CommandContext) -> int:
    """Wait until no request waits or runs; exit with 1 when some still do."""
    is_idle = wait_until_idle(context.management, context.management.models, context.arguments.within)
    return 0 if is_idle else NOT_READY
