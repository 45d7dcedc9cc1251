"""The commands of scripts/models.py that look at or change one server: list, status, register, scale and others.

Promote and rollback are in rollout.py, shadow in shadow.py.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from scripts.archives.attestation import check_attestation
from scripts.archives.floor import Floor
from scripts.archives.registered import fetch_archive, is_registered
from scripts.archives.signing import (
    PUBLIC_KEY,
    check_admitted,
    check_signature,
    key_of_environment,
    offered,
    put_checked,
    remember_served,
)
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
        check = partial(check_admitted, context.server, store)
        archive = fetch_archive(arguments.archive, store, check).file.name
    failure_log = FailureLog.from_now(context.server)
    try:
        with offered(context.server, store, store.folder / archive) as offer:
            name, version = management.register(
                offer.file,
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
    if management.default_version(name) == version:
        offer.served()
    print_models([management.model(name, version)])


def verify(context: CommandContext) -> None:
    """Check signature, provenance and age of archives of a model store; no server is needed."""
    key, arguments = _public_key(), context.arguments
    store, floor = Store(arguments.model_store), Floor(context.server.run_dir)
    named = [word.rpartition("=") for word in arguments.archives]
    checked = []
    for name, _, file in named:
        if arguments.copy_to:
            archive, attestation = put_checked(store, store.folder / file, arguments.copy_to, floor)
        else:
            archive = Archive.read(store.folder / file)
            check_signature(store, archive)
            attestation = floor.check(store, archive, key)
        if name and archive.name != name:
            raise ScriptError(f"{file} is refused: it holds {archive.name}, and would be served as {name}")
        if arguments.provenance and not attestation:
            attestation = check_attestation(store, archive, key)
        if attestation:
            say(f"{file}: {attestation}")
        checked.append((archive, attestation))
    if arguments.copy_to:
        floor.remember_next(checked)
    say(f"signed: {', '.join(file for _, _, file in named)}")


def accept(context: CommandContext) -> None:
    """Let a signed archive be served that is older than the one that served before; no server is needed."""
    key, folder = _public_key(), context.arguments.model_store
    store = Store(folder) if folder else Store.of(context.server)
    for file in context.arguments.archives:
        archive = Archive.read(store.folder / file)
        check_signature(store, archive)
        Floor(context.server.run_dir).accept(store, archive, key)
        say(f"{file} ({archive.name} {archive.version}) and what is packed later may be served from now on")


def _public_key() -> Path:
    key = key_of_environment()
    if not key:
        raise ScriptError(f"{PUBLIC_KEY} names no public key")
    return key


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
    remember_served(context.server, Store.of(context.server), context.arguments.name, context.arguments.version)
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
