"""Archives: what a server unpacks, and what it refuses by name. All of them are harmless."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from handler.errors import ModelMismatch
from server import log
from server.archives import MANIFEST, unpack
from server.errors import ApiError

GOOD = '{"model": {"modelName": "tiny", "modelVersion": "1.0"}}'


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return an empty model store beside a folder for unpacked archives."""
    (tmp_path / "temp").mkdir()
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def archive(store: Path, members: dict[str, str | bytes], manifest: str = GOOD) -> str:
    """Write an archive; return its name."""
    with zipfile.ZipFile(store / "a.mar", "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in {MANIFEST: manifest, **members}.items():
            out.writestr(name, content)
    return "a.mar"


def unpacked(store: Path, file: str, name: str | None = None) -> Path:
    """Return the folder of an unpacked archive."""
    return unpack(store, file, store.parent / "temp", name).folder


def left_over(store: Path) -> list[str]:
    """Return what is left in the folder for unpacked archives."""
    return [path.name for path in (store.parent / "temp").iterdir()]


def test_members_stay_in_their_folder(store: Path) -> None:
    """A path with `..` or from the root loses that; a link becomes a file with its target as text."""
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(store / "a.mar", "w") as out:
        out.writestr(MANIFEST, GOOD)
        out.writestr("../outside", "a")
        out.writestr("/root", "a")
        out.writestr(link, "/etc/hostname")
    folder = unpacked(store, "a.mar")
    assert sorted(path.name for path in folder.iterdir()) == ["MAR-INF", "link", "outside", "root"]
    assert not (folder / "link").is_symlink()
    assert left_over(store) == [folder.name]


def _tar(add: Callable[[tarfile.TarFile], None], store: Path) -> str:
    with tarfile.open(store / "a.tar.gz", "w:gz") as out:
        add(out)
    return "a.tar.gz"


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "../../a"), (tarfile.CHRTYPE, "")]
)
def test_links_and_devices_of_a_tar_are_refused(store: Path, kind: bytes, target: str) -> None:
    """Those that lead out of the folder, and what is no file."""
    member = tarfile.TarInfo("member")
    member.type, member.linkname = kind, target
    with pytest.raises(ModelMismatch, match="no whole archive"):
        unpacked(store, _tar(lambda out: out.addfile(member), store))
    assert not left_over(store)


def test_an_archive_that_unpacks_to_much_more_is_refused(store: Path) -> None:
    """Before anything of it is written, zip and tar alike."""
    zeros = bytes(2 << 20)
    with pytest.raises(ModelMismatch, match="more than 100 times its size"):
        unpacked(store, archive(store, {"model.bin": zeros}))
    member = tarfile.TarInfo("model.bin")
    member.size = len(zeros)
    with pytest.raises(ModelMismatch, match="more than 100 times its size"):
        unpacked(store, _tar(lambda out: out.addfile(member, io.BytesIO(zeros)), store))
    assert not left_over(store)


def test_a_full_disk_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is needed and what is free; also where it fills only while the archive is unpacked."""
    file = archive(store, {"model.bin": os.urandom(3 << 20)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ModelMismatch, match=r"a.mar needs 3 MB in .*temp, where 1 MB are free"):
        unpacked(store, file)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(ModelMismatch, match=r"cannot be unpacked in .*temp: No space left on device"):
        unpacked(store, file)
    assert not left_over(store)


@pytest.mark.parametrize(
    "file", ["../a.mar", "temp/../../a.mar", "sub/a.mar", "a\0b", "nothing.mar", "file:///a.mar", ""]
)
def test_only_the_store_is_read(store: Path, file: str) -> None:
    """Nothing beside it or below it, no address."""
    (store.parent / "a.mar").write_bytes(b"")
    with pytest.raises(ApiError) as refused:
        unpacked(store, file)
    assert refused.value.status in (400, 404)


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "a b", "a\n", ".hidden"])
def test_names_are_those_that_can_be_packed(store: Path, name: str) -> None:
    """Of a request and of a manifest."""
    with pytest.raises(ApiError, match="letters, digits"):
        unpacked(store, archive(store, {}), name)
    with pytest.raises(ModelMismatch, match="no route can have"):
        unpacked(store, archive(store, {}, manifest=GOOD.replace("tiny", name.replace("\n", "\\n"))))
    assert not left_over(store)


def test_a_damaged_archive_is_named(store: Path) -> None:
    """A byte that changed."""
    file = archive(store, {"model.bin": os.urandom(1000)})
    content = bytearray((store / file).read_bytes())
    content[600] ^= 1
    (store / file).write_bytes(content)
    with pytest.raises(ModelMismatch, match=r"a.mar is no whole archive"):
        unpacked(store, file)
    assert not left_over(store)


def test_libraries_quote_no_form(tmp_path: Path) -> None:
    """The parser of forms logs the characters that it cannot read; they are a user's."""
    log.configure(tmp_path / "log", to_terminal=False)
    try:
        logging.getLogger("python_multipart.multipart").warning("Found invalid character %r", "x")
        assert (tmp_path / "log").read_text() == ""
    finally:
        logging.basicConfig(handlers=[], force=True)
        logging.captureWarnings(False)
