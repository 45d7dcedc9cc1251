"""Put an archive from a registry of models into a model store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError, say
from scripts.pretrained import registries


def is_registered(word: str) -> bool:
    """Return whether a word is an address in a registry, not an archive of the model store."""
    return registries.is_registered(word)


def fetch_archive(uri: str, store: Store, check: Callable[[Archive], object] = lambda _: None) -> Archive:
    """Fetch the archive of a version into a model store, in which another version of its name is kept.

    Args:
        check: raises ScriptError for an archive that must not take the place of the one in the store.

    Raises:
        ScriptError: no such version, one without an archive, or a file that is not what was packed.
    """
    with tempfile.TemporaryDirectory(prefix="registered-") as folder:
        fetched = registries.fetch(uri, Path(folder))
        files = sorted(fetched.folder.glob("*.mar"))
        if len(files) != 1:
            raise ScriptError(
                f"{uri}: {len(files)} archives in it, one is registered: scripts/publish.py pushes an archive, and "
                f"scripts/package.py --model {uri} makes one of a model's folder"
            )
        archive = Archive.read(files[0])
        damage = archive.damage() or (f"its name is {archive.name}" if archive.name != files[0].stem else "")
        if damage:
            raise ScriptError(f"{uri}: {files[0].name}: {damage}: push it again")
        check(archive)
        store.put(archive)
        say(f"{fetched.uri}: {archive.name} {archive.version} is in the model store")
        return Archive.read(store.current(archive.name))
