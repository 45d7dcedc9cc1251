"""Let another version of a model take over the requests that name none, without losing one.

Register the new version, wait until it is ready (it runs its self-test as it loads), send it a real prediction, make it
the default, let the old one answer what it has, unregister the old one. Until the new one is the default, any failure
removes it again and the old one goes on serving; afterwards the old one is only removed when it is idle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.archives.signing import Offer, offered, remember_served
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError, counted, say
from scripts.cli.options import natural_float, path_name, positive_int
from scripts.client.http import Management
from scripts.client.server import Refused, ServerError
from scripts.operations.context import CommandContext, print_models
from scripts.operations.draining import wait_until_idle
from scripts.operations.evaluations import evaluation_gate
from scripts.operations.readiness import FailureLog, readiness_problem

OLD_VERSION_STAYS = 1  # exit code of `promote` and `rollback` when the old version stays


@dataclass(frozen=True)
class Rollout:
    """A change of the version of one model."""

    management: Management
    store: Store
    name: str
    within: float  # seconds that the old version may take to answer what it has
    workers: int | None = None  # of the new version; by default what its archive says
    older: bool = False  # whether an operator goes back: the archive may be older than what served
    gate: Callable[[str, str], None] | None = None  # raises ScriptError where the new version must not follow the old

    def promote(self, version: str, read_archive: Callable[[], Archive]) -> bool:
        """Let a version take over; return whether the old one could be unregistered.

        The archive is read only when the version is not registered yet.

        Raises:
            ScriptError: the old version goes on serving.
        """
        old = self.management.default_version(self.name)
        if version == old:
            raise ScriptError(f"{self.name} {version} is the version that serves already")
        new: Archive | None = None
        offer: Offer | None = None
        failure_log = FailureLog.from_now(self.management.server)
        try:
            with ExitStack() as undo:
                if version not in [model.version for model in self.management.versions(self.name)]:
                    new = self._expected(read_archive(), version)
                    offer = self._register(new, undo)
                self._check_ready(old, version, failure_log)
                if self.gate:
                    self.gate(old, version)
                self._make_default(old, version, undo)
                undo.pop_all()
        except ScriptError as error:
            raise ScriptError(f"{error}; {self._what_serves(old)}") from error
        except KeyboardInterrupt:
            say(self._what_serves(old))
            raise
        say(f"{self.name}: requests without a version now go to {version}")
        is_unregistered = self._unregister(old, version)
        self._update_store(new, old, version)
        if offer:
            offer.served()
        else:
            remember_served(self.management.server, self.store, self.name, version)
        return is_unregistered

    def _expected(self, archive: Archive, version: str) -> Archive:
        if (archive.name, archive.version) != (self.name, version):
            raise ScriptError(
                f"{archive.file} holds {archive.name} {archive.version}, not {self.name} {version}: name the right "
                "one with --archive, or pack it with scripts/package.py"
            )
        return archive

    def _register(self, new: Archive, undo: ExitStack) -> Offer:
        with offered(self.management.server, self.store, new.file, older=self.older) as offer:
            if offer.archive:
                self._expected(offer.archive, new.version)  # what was copied: it may have been replaced since
            undo.callback(self._remove, new.version)  # first: the answer to register may get lost
            try:
                self.management.register(offer.file)
            except Refused:
                undo.pop_all()  # nothing to remove, or somebody else's
                raise
        if self.workers:
            self.management.scale(self.name, new.version, self.workers, self.workers)
        return offer

    def _check_ready(self, old: str, version: str, failure_log: FailureLog) -> None:
        model, old_model = (self.management.model(self.name, number) for number in (version, old))
        problem = readiness_problem(model, self.management, failure_log, wait=True)
        if problem:
            raise ScriptError(f"{self.name} {version} is not ready: {problem}")
        if model.min_workers < old_model.min_workers:
            workers = counted(model.min_workers, "worker")
            say(f"note: {version} has {workers}, {old} has {old_model.min_workers}; see --workers")

    def _make_default(self, old: str, version: str, undo: ExitStack) -> None:
        undo.callback(self._restore_default, old, version)
        self.management.set_default(self.name, version)
        if self.management.default_version(self.name) != version:
            raise ScriptError(f"{self.name} {version} did not become the default")

    def _restore_default(self, old: str, version: str) -> None:
        with suppress(ServerError):
            if self.management.default_version(self.name) == version:
                self.management.set_default(self.name, old)
                self._wait_until_idle(version)

    def _remove(self, version: str) -> None:
        with suppress(ServerError):
            self.management.unregister(self.name, version)

    def _what_serves(self, old: str) -> str:
        with suppress(ServerError):
            if self.management.default_version(self.name) == old:
                return f"{self.name} {old} goes on serving"
        return f"whether {self.name} {old} goes on serving is not known: scripts/models.py list"

    def _wait_until_idle(self, version: str) -> bool:
        return wait_until_idle(self.management, lambda: [self.management.model(self.name, version)], self.within)

    def _unregister(self, old: str, version: str) -> bool:
        unregister = f"scripts/models.py unregister {self.name} --version {old}"
        try:
            if not self._wait_until_idle(old):
                say(f"{old} still has requests after {self.within:g} s and stays beside {version}; later: {unregister}")
                return False
            self.management.unregister(self.name, old)
        except ServerError as error:
            say(f"{old} could not be unregistered and stays beside {version} ({error}); later: {unregister}")
            return False
        say(f"{self.name} {old} unregistered: it had answered everything")
        return True

    def _update_store(self, new: Archive | None, old: str, version: str) -> None:
        """Make NAME.mar the version that serves now, for the next start, and keep the old one for a rollback."""
        try:
            kept = self.store.kept(self.name)
            if new is None and version in kept:
                new = Archive.read(kept[version])
            if new is not None:
                self.store.put(new)
            self.store.keep_only(self.name, old)
        except (OSError, ScriptError) as error:
            say(f"note: {self.store.current(self.name)} may not be what a restart should load ({error})")


def previous(store: Store, name: str, serving: str) -> str:
    """Return the version to go back to: the only one that is kept."""
    versions = [version for version in store.kept(name) if version != serving]
    if len(versions) == 1:
        return versions[0]
    if versions:
        raise ScriptError(f"{store.folder} keeps {', '.join(versions)} of {name}: choose with --version")
    raise ScriptError(f"{store.folder} keeps no earlier version of {name}: scripts/models.py promote with --archive")


def add_rollout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that promote and rollback share."""
    parser.add_argument("--workers", type=positive_int, metavar="N", help="default: minWorkers of the archive")
    parser.add_argument(
        "--within",
        type=natural_float,
        default=120,
        metavar="SECONDS",
        help="for the old version to answer all (default: 120)",
    )
    parser.add_argument("--model-store", type=path_name, metavar="DIR", help="default: that of the running server")


def promote(context: CommandContext) -> int:
    """Let another version take over without a lost request: register, try out, make default, drain, unregister the old.

    With --gate it is evaluated on --data against the old one first, and refused where a limit is not kept. Any failure
    leaves the old version serving. Exits with 1 when the new version serves but the old one still had
    requests and stays beside it.
    """
    name, store = context.arguments.name, store_of(context)
    file = context.arguments.archive or store.current(name)
    return _roll(context, store, context.arguments.version, file, evaluation_gate(context))


def rollback(context: CommandContext) -> int:
    """Go back to the version before, whose archive the model store keeps, in the same way."""
    name, store, version = context.arguments.name, store_of(context), context.arguments.version
    version = version or previous(store, name, context.management.default_version(name))
    return _roll(context, store, version, store.kept(name).get(version, store.current(name)), older=True)


def _roll(
    context: CommandContext,
    store: Store,
    version: str,
    file: Path,
    gate: Callable[[str, str], None] | None = None,
    *,
    older: bool = False,
) -> int:
    arguments = context.arguments
    rollout = Rollout(context.management, store, arguments.name, arguments.within, arguments.workers, older, gate)
    is_unregistered = rollout.promote(version, lambda: Archive.read(file))
    print_models(context.management.versions(arguments.name))
    return 0 if is_unregistered else OLD_VERSION_STAYS


def store_of(context: CommandContext) -> Store:
    """Return the model store that --model-store names, or that of the running server."""
    folder = context.arguments.model_store
    return Store(folder) if folder else Store.of(context.server)
