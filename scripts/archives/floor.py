"""The oldest archive of each model that a server still takes: a signature alone says nothing about age.

Whoever can write to the model store could put an earlier archive, which was signed too, into the place of a newer one.
So the run folder remembers of each model when the archive that served last was packed, by its signed provenance, in
run/newest/NAME.json; and ARCHIVE_NOT_OLDER_THAN says it for run folders that remember nothing. An older archive is
refused until an operator goes back to it by `rollback` or `accept` of scripts/models.py.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.archives.attestation import TIME_FORMAT, Attestation, attestation_file, check_attestation, now
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError, say

NOT_OLDER_THAN = "ARCHIVE_NOT_OLDER_THAN"  # of the environment: TIME, or NAME=TIME of some models, with commas between
NEWEST = Path("run/newest")  # of the run folder
NEXT = Path("run/newest.next")  # the same of archives that are checked and do not serve yet
CLOCKS = datetime.timedelta(hours=1)  # that those of two machines may differ by


@dataclass(frozen=True)
class Floor:
    """What one server remembers of the archives that it served."""

    run_dir: Path

    def check(self, store: Store, archive: Archive, public_key: Path, *, older: bool = False) -> Attestation | None:
        """Return what the provenance of an archive says, if it has one.

        Args:
            store: that has the provenance.
            older: an operator goes back to it, so it may be older than what served here.

        Raises:
            ScriptError: it is older than it may be, or nothing says how old it is where that counts.
        """
        minimum, served = said_minimum(archive.name), None if older else self._served(archive.name)
        label = f"{archive.file.name} ({archive.name} {archive.version}) is refused: "
        if not attestation_file(store, archive).is_file():
            if not minimum and not served:
                return None
            rule = f"{NOT_OLDER_THAN} demands it" if minimum else "one whose time is known served here"
            raise ScriptError(f"{label}it has no provenance that says when it was packed, and {rule}; {_way(archive)}")
        attestation = check_attestation(store, archive, public_key)
        packed = f"{label}it was packed at {_written(attestation.finished)}"
        if attestation.finished > now() + CLOCKS:
            raise ScriptError(f"{packed}, which is in the future: set the clock here, or where it was packed")
        if minimum and attestation.finished < minimum:
            raise ScriptError(f"{packed}, and {NOT_OLDER_THAN} says {_written(minimum)}")
        if served and attestation.finished < served.packed:
            raise ScriptError(
                f"{packed}, before {served.version} of {_written(served.packed)}, which served here; {_way(archive)}"
            )
        return attestation

    def accept(self, store: Store, archive: Archive, public_key: Path) -> None:
        """Let this archive be served from now on, and none that is older.

        Raises:
            ScriptError: it is older than ARCHIVE_NOT_OLDER_THAN says.
        """
        attestation = self.check(store, archive, public_key, older=True)
        if attestation:
            self.remember(archive, attestation)
        else:
            (self.run_dir / NEWEST / f"{archive.name}.json").unlink(missing_ok=True)

    def remember(self, archive: Archive, attestation: Attestation, folder: Path = NEWEST) -> None:
        """Write down when the archive was packed that serves, or with NEXT that will serve when all are ready."""
        file = self.run_dir / folder / f"{archive.name}.json"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        written = {"version": archive.version, "packed": _written(attestation.finished)}
        partial.write_text(json.dumps(written) + "\n", encoding="utf-8")
        partial.replace(file)

    def remember_next(self, checked: Sequence[tuple[Archive, Attestation | None]]) -> None:
        """Write down what a server that starts will have served: of two versions of a model the older one."""
        oldest: dict[str, tuple[Archive, Attestation]] = {}
        for archive, attestation in checked:
            if attestation is None:
                say(f"note: {archive.file.name} has no provenance, so an older signed one in its place would pass")
            elif archive.name not in oldest or attestation.finished < oldest[archive.name][1].finished:
                oldest[archive.name] = (archive, attestation)
        for archive, attestation in oldest.values():
            self.remember(archive, attestation, NEXT)

    def _served(self, name: str) -> _Served | None:
        file = self.run_dir / NEWEST / f"{name}.json"
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            return _Served(str(said["version"]), _time(str(said["packed"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScriptError(
                f"{file} cannot be read ({type(error).__name__}): scripts/models.py accept FILE writes it anew "
                f"for the archive of {name} that shall serve"
            ) from error


@dataclass(frozen=True)
class _Served:
    version: str
    packed: datetime.datetime


def said_minimum(name: str) -> datetime.datetime | None:
    """Return the time before which no archive of a model may have been packed, by the environment.

    >>> os.environ[NOT_OLDER_THAN] = "2026-11-01T00:00:00Z, intents=2026-11-20T12:00:00Z"
    >>> [said_minimum(name).day for name in ("intents", "entities")]
    [20, 1]
    >>> del os.environ[NOT_OLDER_THAN]

    Raises:
        ScriptError: it is written otherwise.
    """
    times: dict[str, datetime.datetime] = {}
    for word in filter(None, map(str.strip, os.environ.get(NOT_OLDER_THAN, "").split(","))):
        model, _, time = word.rpartition("=")
        try:
            times[model.strip()] = _time(time.strip())
        except ValueError as error:
            raise ScriptError(
                f"{NOT_OLDER_THAN}: {word} is no time like 2026-11-20T12:00:00Z, nor NAME= and such a time"
            ) from error
    return times.get(name, times.get(""))


def _way(archive: Archive) -> str:
    return (
        f"scripts/models.py rollback {archive.name} goes back to the version before, and scripts/models.py accept "
        f"{archive.file.name} takes this archive"
    )


def _time(written: str) -> datetime.datetime:
    return datetime.datetime.strptime(written, TIME_FORMAT).replace(tzinfo=datetime.timezone.utc)


def _written(time: datetime.datetime) -> str:
    return time.strftime(TIME_FORMAT)
