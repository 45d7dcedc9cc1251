"""Signatures of archives: made when one is packed, checked before a server gets it.

What is checked is a copy, in a folder that only the server's user may change, and the server reads that copy: whoever
may write to the model store cannot replace it between the check and the loading.

A signature is that of OpenSSF's `model-signing`: an in-toto statement with the SHA-256 of the archive, in a Sigstore
bundle, here with a key pair of one's own. It lies in the model store as NAME@VERSION.sig, whatever the archive is
called while it is kept, promoted or rolled back. The package is not among what serving needs: requirements/sign.txt.
How old an archive may be is in floor.py.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.archives.attestation import MAX_BYTES, Attestation
from scripts.archives.floor import NOT_OLDER_THAN, Floor
from scripts.archives.store import Archive, Store, checked_folder
from scripts.cli.console import ScriptError, say
from scripts.client.server import Server

PUBLIC_KEY = "ARCHIVE_PUBLIC_KEY"  # of the environment: where it is set, no unsigned archive is registered
MB = 1 << 20
INSTALL = "pip install -r requirements/sign.txt -c requirements/constraints.txt"


@dataclass(frozen=True)
class Offer:
    """An archive that a running server can register."""

    file: str  # the name to register it by
    floor: Floor | None = None  # None: the server reads the store itself
    archive: Archive | None = None
    attestation: Attestation | None = None

    def served(self) -> None:
        """Remember it as the one that serves: an older one is refused from now on."""
        if self.floor and self.archive and self.attestation:
            with _noting(self.archive.name, self.archive.version):
                self.floor.remember(self.archive, self.attestation)


def sign(mar: Path, private_key: Path) -> Path:
    """Sign an archive with an elliptic key in PEM; return the signature's file.

    Raises:
        ScriptError: no such key, or `model-signing` is not installed.
    """
    try:
        from model_signing import signing
    except ImportError as error:
        raise ScriptError(f"signing needs model-signing ({error.name} is missing): {INSTALL}") from error
    archive = Archive.read(mar)
    signature = _signature(Store(mar.parent), archive)
    partial = signature.with_suffix(".partial")
    try:
        config = signing.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=private_key).sign(mar, partial)
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no elliptic private key in PEM without a password"
        raise ScriptError(f"{private_key} cannot sign: {reason}") from error
    return partial.replace(signature)


def check_signature(store: Store, archive: Archive, public_key: Path | None = None) -> None:
    """Raise where the archive is not the one that was signed; nothing is checked without a key.

    Args:
        public_key: by default the one that ARCHIVE_PUBLIC_KEY names.
    """
    key = public_key or key_of_environment()
    if key is None:
        return
    if not key.is_file():
        raise ScriptError(f"no public key at {key}")
    signature = _signature(store, archive)
    if not signature.is_file():
        raise ScriptError(
            f"{archive.file.name} is not signed: {signature.name} is missing; scripts/package.py --sign makes it"
        )
    if signature.stat().st_size > MAX_BYTES:
        raise ScriptError(f"{archive.file.name} is refused: {signature.name} has more than {MAX_BYTES >> 20} MB")
    try:
        from model_signing import verifying
    except ImportError as error:
        raise ScriptError(f"checking signatures needs model-signing ({error.name} is missing): {INSTALL}") from error
    try:
        config = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=key).verify(archive.file, signature)
    except Exception as error:
        reason = "has another content" if "Signature mismatch" in str(error) else "has no valid signature of this key"
        raise ScriptError(f"{archive.file.name} is refused: it {reason} ({signature.name}, {key})") from error


def key_of_environment() -> Path | None:
    """Return the public key that ARCHIVE_PUBLIC_KEY names.

    Raises:
        ScriptError: none, and something else is set that only counts with one.
    """
    if os.environ.get(PUBLIC_KEY):
        return Path(os.environ[PUBLIC_KEY])
    if os.environ.get(NOT_OLDER_THAN):
        raise ScriptError(f"{NOT_OLDER_THAN} needs {PUBLIC_KEY}: only a signature says when an archive was packed")
    return None


def put_checked(
    store: Store, file: Path, folder: Path, floor: Floor, *, older: bool = False
) -> tuple[Archive, Attestation | None]:
    """Copy an archive into a folder that only the server's user may change, where only checked copies appear.

    Args:
        store: that has the signature.
        older: an operator goes back to it.

    Raises:
        ScriptError: it is not the one that was signed, older than it may be, or there is no room for a copy.
    """
    Archive.read(file)  # whose errors name the file, not a copy
    with tempfile.TemporaryDirectory(dir=folder) as private:
        copy = Path(private, file.name)
        try:
            _copy(file, copy)
        except OSError as error:
            raise ScriptError(f"{file} cannot be copied into {folder}: {error.strerror}") from error
        archive = Archive.read(copy)
        check_signature(store, archive)
        key = key_of_environment()
        attestation = floor.check(store, archive, key, older=older) if key else None
        return replace(archive, file=copy.replace(folder / file.name)), attestation


@contextmanager
def offered(server: Server, store: Store, file: Path, *, older: bool = False) -> Iterator[Offer]:
    """Let a running server register an archive.

    Args:
        older: an operator goes back to it.

    Raises:
        ScriptError: signatures are demanded by the server or by this command, and not by both, or it is not signed, or
            older than it may be.
    """
    folder, key = checked_folder(server), key_of_environment()
    if folder is None and key:
        raise ScriptError(
            f"the server was started without {PUBLIC_KEY} and reads the model store itself, where an archive can be "
            "replaced after it was checked: start it again with the key"
        )
    if folder is None:
        with store.offered(file) as name:
            yield Offer(name)
        return
    if not key:
        raise ScriptError(f"the server takes signed archives alone: set {PUBLIC_KEY}, as where it was started")
    floor = Floor(server.run_dir)
    archive, attestation = put_checked(store, file, folder, floor, older=older)
    try:
        yield Offer(archive.file.name, floor, archive, attestation)
    finally:
        archive.file.unlink(missing_ok=True)  # the server has unpacked it


def check_admitted(server: Server, store: Store, archive: Archive) -> None:
    """Raise where a start with ARCHIVE_PUBLIC_KEY would refuse an archive: of the store, or before it becomes one."""
    if key := key_of_environment():
        check_signature(store, archive, key)
        Floor(server.run_dir).check(store, archive, key)


def remember_served(server: Server, store: Store, name: str, version: str) -> None:
    """Refuse from now on what is older than a version that an operator chose, if it is what the store holds."""
    key = key_of_environment()
    if not key or not checked_folder(server):
        return
    with _noting(name, version):
        current = Archive.read(store.current(name))
        if current.version == version:
            check_signature(store, current, key)
            Floor(server.run_dir).accept(store, current, key)


@contextmanager
def _noting(name: str, version: str) -> Iterator[None]:
    """Print what goes wrong with the memory of a version that serves already: it goes on serving."""
    try:
        yield
    except (OSError, ScriptError) as error:
        say(f"note: that {name} {version} serves is not remembered, so a restart may refuse or miss it ({error})")


def _copy(file: Path, target: Path) -> None:
    """Copy what is in a file now: a link to it would go on changing with it, and what grows for ever is cut."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as source, target.open("xb") as copy:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ScriptError(f"{file} is no plain file")
        left = status.st_size
        free = shutil.disk_usage(target.parent).free
        if left > free:
            raise ScriptError(
                f"{file} needs {left / MB:.0f} MB in {target.parent.parent}, where {free / MB:.0f} are free"
            )
        while left and (part := source.read(min(left, MB))):
            left -= copy.write(part)
        os.fchmod(copy.fileno(), 0o444)  # of the server too where root runs the command; the folder is closed to others


def _signature(store: Store, archive: Archive) -> Path:
    return store.folder / f"{archive.name}@{archive.version}.sig"
