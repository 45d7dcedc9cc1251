"""Another version takes over the requests that name none: beside the old one first, and without a lost request.

Register the new version, wait until it is ready (its golden answers are checked as it loads), ask it a real prediction,
make it the default, let the old one answer what it has, unregister the old one. Until the new one is the default, any
failure removes it again and the old one goes on; afterwards the old one is only removed when it is idle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError, say
from scripts.client.http import Management
from scripts.client.server import Refused, ServerError
from scripts.operations.commands import Call, show
from scripts.operations.draining import idle
from scripts.operations.readiness import Failures, problem_of

STILL_THERE = 1  # exit code of `promote` and `rollback` when the old version stays


@dataclass(frozen=True)
class Rollout:
    """A change of the version of one model."""

    management: Management
    store: Store
    name: str
    within: float  # seconds that the old version may take to answer what it has
    workers: int | None = None  # of the new version; by default what its archive says

    def to(self, version: str, found: Callable[[], Archive]) -> bool:
        """Let a version take over; return whether the old one could be unregistered.

        The archive is asked for only when the version is not registered yet.

        Raises:
            ScriptError: the old version goes on serving.
        """
        old = self.management.default_version(self.name)
        if version == old:
            raise ScriptError(f"{self.name} {version} is the version that serves already")
        new: Archive | None = None
        failures = Failures.from_now(self.management.server)
        try:
            with ExitStack() as undo:
                if version not in [model.version for model in self.management.versions(self.name)]:
                    new = self._expected(found(), version)
                    self._register(new, undo)
                self._try_out(old, version, failures)
                self._hand_over(old, version, undo)
                undo.pop_all()
        except ScriptError as error:
            raise ScriptError(f"{error}; {self._serving(old)}") from error
        except KeyboardInterrupt:
            say(self._serving(old))
            raise
        say(f"{self.name}: requests without a version now go to {version}")
        gone = self._retire(old, version)
        self._remember(new, old, version)
        return gone

    def _expected(self, archive: Archive, version: str) -> Archive:
        if (archive.name, archive.version) != (self.name, version):
            raise ScriptError(
                f"{archive.file} holds {archive.name} {archive.version}, not {self.name} {version}: name the right "
                "one with --archive, or pack it with scripts/package.py"
            )
        return archive

    def _register(self, new: Archive, undo: ExitStack) -> None:
        undo.callback(self._remove, new.version)  # before: an answer may get lost
        with self.store.offered(new) as file:
            try:
                self.management.register(file)
            except Refused:
                undo.pop_all()  # nothing to remove, or somebody else's
                raise
        if self.workers:
            self.management.scale(self.name, new.version, self.workers, self.workers)

    def _try_out(self, old: str, version: str, failures: Failures) -> None:
        model, before = (self.management.model(self.name, one) for one in (version, old))
        problem = problem_of(model, self.management, failures, wait=True)
        if problem:
            raise ScriptError(f"{self.name} {version} is not ready: {problem}")
        if model.min_workers < before.min_workers:
            say(f"note: {version} has {model.min_workers} workers, {old} has {before.min_workers}; see --workers")

    def _hand_over(self, old: str, version: str, undo: ExitStack) -> None:
        undo.callback(self._hand_back, old, version)
        self.management.set_default(self.name, version)
        if self.management.default_version(self.name) != version:
            raise ScriptError(f"{self.name} {version} did not become the default")

    def _hand_back(self, old: str, version: str) -> None:
        with suppress(ServerError):
            if self.management.default_version(self.name) == version:
                self.management.set_default(self.name, old)
                self._drained(version)

    def _remove(self, version: str) -> None:
        with suppress(ServerError):
            self.management.unregister(self.name, version)

    def _serving(self, old: str) -> str:
        with suppress(ServerError):
            if self.management.default_version(self.name) == old:
                return f"{self.name} {old} goes on serving"
        return f"whether {self.name} {old} goes on serving is not known: scripts/models.py list"

    def _drained(self, version: str) -> bool:
        return idle(self.management, lambda: [self.management.model(self.name, version)], self.within)

    def _retire(self, old: str, version: str) -> bool:
        unregister = f"scripts/models.py unregister {self.name} --version {old}"
        try:
            if not self._drained(old):
                say(f"{old} still has requests after {self.within:g} s and stays beside {version}; later: {unregister}")
                return False
            self.management.unregister(self.name, old)
        except ServerError as error:
            say(f"{old} could not be unregistered and stays beside {version} ({error}); later: {unregister}")
            return False
        say(f"{self.name} {old} unregistered: it had answered everything")
        return True

    def _remember(self, new: Archive | None, old: str, version: str) -> None:
        """Let NAME.mar be what serves now, for the next start, and keep the old one for the way back."""
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
    found = [version for version in store.kept(name) if version != serving]
    if len(found) == 1:
        return found[0]
    if found:
        raise ScriptError(f"{store.folder} keeps {', '.join(found)} of {name}: choose with --version")
    raise ScriptError(f"{store.folder} keeps no earlier version of {name}: scripts/models.py promote with --archive")


def add_rollout_options(parser: argparse.ArgumentParser) -> None:
    """Add what promote and rollback have in common."""
    parser.add_argument("--workers", type=int, metavar="N", help="default: minWorkers of the archive")
    parser.add_argument(
        "--within", type=float, default=120, metavar="SECONDS", help="for the old version to answer all (default: 120)"
    )
    parser.add_argument("--model-store", type=Path, metavar="DIR", help="default: that of the running server")


def promote(call: Call) -> int:
    """Let another version take over without a lost request: register, try out, make default, drain, unregister the old.

    Any failure leaves the old version serving. Exits with 1 when the new version serves but the old one still had
    requests and stays beside it.
    """
    name, store = call.arguments.name, store_of(call)
    return _roll(call, store, call.arguments.version, call.arguments.archive or store.current(name))


def rollback(call: Call) -> int:
    """Go back to the version before, whose archive the model store keeps, in the same way."""
    name, store, version = call.arguments.name, store_of(call), call.arguments.version
    version = version or previous(store, name, call.management.default_version(name))
    return _roll(call, store, version, store.kept(name).get(version, store.current(name)))


def _roll(call: Call, store: Store, version: str, file: Path) -> int:
    asked = call.arguments
    rollout = Rollout(call.management, store, asked.name, asked.within, asked.workers)
    done = rollout.to(version, lambda: Archive.read(file))
    show(call.management.versions(asked.name))
    return 0 if done else STILL_THERE


def store_of(call: Call) -> Store:
    """Return the model store that was named, or that of the running server."""
    return Store(call.arguments.model_store) if call.arguments.model_store else Store.of(call.server)
