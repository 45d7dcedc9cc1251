"""Signatures of archives, with the library that makes them and keys of the test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from scripts.archives import signing
from scripts.archives.floor import Floor
from scripts.archives.signing import PUBLIC_KEY, check_signature, put_checked, sign
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError
from tests.support.key_pairs import key_pair


@pytest.fixture
def store(tmp_path: Path, mar: Path) -> Store:
    """Return a model store with one archive."""
    (tmp_path / "store").mkdir()
    shutil.copy(mar, tmp_path / "store")
    return Store(tmp_path / "store")


def test_what_was_signed_passes_and_nothing_else(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signed archive, also while it is kept for a rollback; not a changed one, nor by another key, nor unsigned."""
    private, public = key_pair(tmp_path, "mine")
    archive = Archive.read(store.current("tiny"))
    check_signature(store, archive)  # without a key nothing is checked
    monkeypatch.setenv(PUBLIC_KEY, str(public))
    with pytest.raises(ScriptError, match=r"is not signed: tiny@1\.0\.sig is missing"):
        check_signature(store, archive)
    assert sign(archive.file, private).name == "tiny@1.0.sig"
    check_signature(store, archive)
    store.keep("tiny", "2.0")
    check_signature(store, Archive.read(store.kept("tiny")["1.0"]))
    with pytest.raises(ScriptError, match="has no valid signature of this key"):
        check_signature(store, archive, key_pair(tmp_path, "other")[1])
    store.current("tiny").unlink()  # the kept one is the same file
    content = bytearray(store.kept("tiny")["1.0"].read_bytes())
    content[len(content) // 2] ^= 1
    archive.file.write_bytes(content)
    with pytest.raises(ScriptError, match=r"tiny\.mar is refused: it has another content"):
        check_signature(store, archive)


@pytest.mark.parametrize("content", ["", "{}", "no signature", '{"mediaType": "x"}'])
def test_a_broken_signature_is_refused(store: Store, tmp_path: Path, content: str) -> None:
    """What is no bundle proves nothing."""
    (store.folder / "tiny@1.0.sig").write_text(content)
    with pytest.raises(ScriptError, match=r"tiny\.mar is refused"):
        check_signature(store, Archive.read(store.current("tiny")), key_pair(tmp_path, "mine")[1])


def test_a_signature_that_fills_the_memory_is_not_read(store: Store, tmp_path: Path) -> None:
    """Whoever can write to the store chooses its length."""
    with (store.folder / "tiny@1.0.sig").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ScriptError, match=r"tiny@1\.0\.sig has more than 16 MB"):
        check_signature(store, Archive.read(store.current("tiny")), key_pair(tmp_path, "mine")[1])


def test_a_wrong_key_is_named(store: Store, tmp_path: Path) -> None:
    """A public one to sign with, one that is not there."""
    _, public = key_pair(tmp_path, "mine")
    with pytest.raises(ScriptError, match=r"mine\.pub cannot sign: no elliptic private key"):
        sign(store.current("tiny"), public)
    with pytest.raises(ScriptError, match=r"nothing\.pem cannot sign: No such file"):
        sign(store.current("tiny"), tmp_path / "nothing.pem")
    with pytest.raises(ScriptError, match="no public key at"):
        check_signature(store, Archive.read(store.current("tiny")), tmp_path / "nothing.pub")
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".mar"]


def test_what_is_checked_is_a_copy_that_nobody_else_can_change(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by another file in its place, nor by writing into the same one, nor by a link that was there before."""
    private, public = key_pair(tmp_path, "mine")
    monkeypatch.setenv(PUBLIC_KEY, str(public))
    file, content = store.current("tiny"), store.current("tiny").read_bytes()
    sign(file, private)
    (folder := tmp_path / "checked").mkdir(mode=0o700)

    def change_then_check(*arguments: Path) -> None:
        with file.open("r+b") as opened:  # in place: a hard link would change too
            opened.write(b"changed")
        check_signature(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(signing, "check_signature", change_then_check)
    copy = put_checked(store, file, folder, Floor(tmp_path))[0].file
    assert (copy.parent, copy.read_bytes() == content, file.read_bytes() == content) == (folder, True, False)
    assert (copy.stat().st_nlink, copy.stat().st_mode & 0o777) == (1, 0o444)
    file.write_bytes(content)
    (folder / "tiny.mar").unlink()
    (folder / "tiny.mar").symlink_to(tmp_path / "elsewhere")
    put_checked(store, file, folder, Floor(tmp_path))
    assert not (folder / "tiny.mar").is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.undo()


def test_a_refused_archive_leaves_no_copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsigned, none at all, a pipe that nobody writes to, one for which the disk has no room."""
    monkeypatch.setenv(PUBLIC_KEY, str(key_pair(tmp_path, "mine")[1]))
    (folder := tmp_path / "checked").mkdir(mode=0o700)
    os.mkfifo(store.folder / "pipe.mar")
    for file, reason in (("tiny", "is not signed"), ("none", "no archive at"), ("pipe", "no archive at")):
        with pytest.raises(ScriptError, match=reason):
            put_checked(store, store.current(file), folder, Floor(tmp_path))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ScriptError, match=r"tiny\.mar needs [1-9]\d* MB in .*checked, where 0 are free"):
        put_checked(store, store.current("tiny"), folder, Floor(tmp_path))
    assert not list(folder.iterdir())
