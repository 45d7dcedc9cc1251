"""Signatures of archives: made when one is packed, checked before a server gets it.

A signature is that of OpenSSF's `model-signing`: an in-toto statement with the SHA-256 of the archive, in a Sigstore
bundle, here with a key pair of one's own. It lies in the model store as NAME@VERSION.sig, whatever the archive is
called while it is kept, promoted or rolled back. The package is not among what serving needs: requirements/sign.txt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError

PUBLIC_KEY = "ARCHIVE_PUBLIC_KEY"  # of the environment: where it is set, no unsigned archive is registered
INSTALL = "pip install -r requirements/sign.txt -c requirements/constraints.txt"


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
    key = public_key or (Path(os.environ[PUBLIC_KEY]) if os.environ.get(PUBLIC_KEY) else None)
    if key is None:
        return
    if not key.is_file():
        raise ScriptError(f"no public key at {key}")
    signature = _signature(store, archive)
    if not signature.is_file():
        raise ScriptError(
            f"{archive.file} is not signed: {signature.name} is missing; scripts/package.py --sign makes it"
        )
    try:
        from model_signing import verifying
    except ImportError as error:
        raise ScriptError(f"checking signatures needs model-signing ({error.name} is missing): {INSTALL}") from error
    try:
        config = verifying.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_verifier(public_key=key).verify(archive.file, signature)
    except Exception as error:
        reason = "has another content" if "Signature mismatch" in str(error) else "has no valid signature of this key"
        raise ScriptError(f"{archive.file} is refused: it {reason} ({signature.name}, {key})") from error


def check_signatures(store: Store, files: Sequence[str]) -> None:
    """Check the archives of a store by their file names."""
    for file in files:
        check_signature(store, Archive.read(store.folder / file))


def _signature(store: Store, archive: Archive) -> Path:
    return store.folder / f"{archive.name}@{archive.version}.sig"
