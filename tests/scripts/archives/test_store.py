"""Archives as the commands read them: what was made to write elsewhere, or to fill the memory, is refused by name."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from handler.archive import MANIFEST, MAX_TEXT_BYTES
from handler.errors import ModelMismatch
from scripts.archives.store import TORCHSERVE_MANIFEST, Archive, Store
from scripts.cli.console import ScriptError
from scripts.client.backends import load

Change = Callable[[bytes], bytes]


def changed(mar: Path, target: Path, changes: dict[str, Change], added: dict[str, bytes] | None = None) -> Path:
    """Copy an archive with other members."""
    with zipfile.ZipFile(mar) as packed, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name in packed.namelist():
            out.writestr(name, changes.get(name, bytes)(packed.read(name)))
        for name, content in (added or {}).items():
            out.writestr(name, content)
    return target


def called(**values: str) -> dict[str, Change]:
    """Return a change of the name or the version in TorchServe's manifest."""

    def change(content: bytes) -> bytes:
        manifest = json.loads(content)
        return json.dumps({**manifest, "model": {**manifest["model"], **values}}).encode()

    return {TORCHSERVE_MANIFEST: change}


@pytest.mark.parametrize(
    "values",
    [
        {"modelName": "../../outside"},
        {"modelName": "/etc/outside"},
        {"modelName": "a\0b"},
        {"modelName": ""},
        {"modelName": "a" * 200},
        {"modelVersion": "../../../outside"},
    ],
    ids=str,
)
def test_a_name_is_no_path(mar: Path, tmp_path: Path, values: dict[str, str]) -> None:
    """Stores and signatures make file names of it."""
    evil = changed(mar, tmp_path / "evil.mar", called(**values))
    with pytest.raises(ScriptError, match="a name or version that no route can have"):
        Archive.read(evil)


@pytest.mark.parametrize("name", [TORCHSERVE_MANIFEST, MANIFEST])
def test_a_text_that_fills_the_memory_is_not_read(mar: Path, tmp_path: Path, name: str) -> None:
    """Some kilobytes of zip can be any length."""
    evil = changed(mar, tmp_path / "evil.mar", {name: lambda old: b" " * MAX_TEXT_BYTES + old})
    with pytest.raises(ScriptError, match=r"has more than 64 MB"):
        Archive.read(evil)


@pytest.mark.parametrize("name", [TORCHSERVE_MANIFEST, MANIFEST])
def test_deep_nesting_is_refused(mar: Path, tmp_path: Path, name: str) -> None:
    evil = changed(mar, tmp_path / "evil.mar", {name: lambda _: b"[" * 200_000})
    with pytest.raises(ScriptError, match="no manifest that can be read"):
        Archive.read(evil)


@pytest.mark.parametrize(("at_file", "at_list", "value"), [(6, 8, 1), (8, 10, 99)], ids=["encrypted", "compression"])
def test_what_python_cannot_unpack_is_no_whole_archive(
    mar: Path, tmp_path: Path, at_file: int, at_list: int, value: int
) -> None:
    """A flag of encryption, and a method that there is not; the same when the archive is loaded."""
    content = bytearray(mar.read_bytes())
    for signature, offset in ((b"PK\x03\x04", at_file), (b"PK\x01\x02", at_list)):
        start = content.find(signature)
        while start >= 0:
            content[start + offset] = value
            start = content.find(signature, start + 4)
    evil = tmp_path / "evil.mar"
    evil.write_bytes(content)
    with pytest.raises(ScriptError, match="no whole archive"):
        Archive.read(evil)
    with ExitStack() as stack, pytest.raises(ModelMismatch, match=r"evil\.mar is no whole archive"):
        load(evil, stack)


def test_added_members_are_damage(mar: Path, tmp_path: Path) -> None:
    """Code beside the code, a second member of one name, a bomb."""
    assert not Archive.read(mar).damage()
    evil = tmp_path / "evil.mar"
    for name in ("json.py", "json.pyc", "handler/extra.py", "model/pytorch_model.bin"):
        assert Archive.read(changed(mar, evil, {}, {name: b""})).damage() == f"{name} was added after it was packed"
    with pytest.warns(UserWarning, match="Duplicate name"):
        changed(mar, evil, {}, {"golden.json": b"{}"})
    assert Archive.read(evil).damage() == "golden.json is in it twice"
    bomb = changed(mar, evil, {}, {"zeros": bytes(100 * mar.stat().st_size)})
    assert Archive.read(bomb).damage() == "it unpacks to more than 100 times its size"
    with ExitStack() as stack, pytest.raises(ModelMismatch, match="unpacks to more than 100 times its size"):
        load(bomb, stack)


def test_a_store_gets_no_file_outside(mar: Path, tmp_path: Path) -> None:
    """By the name in the archive that is put there."""
    (tmp_path / "deep" / "store").mkdir(parents=True)
    shutil.copy(mar, tmp_path / "mine.mar")
    store = Store(tmp_path / "deep" / "store")
    store.put(Archive.read(tmp_path / "mine.mar"))
    assert sorted(path.name for path in store.folder.iterdir()) == ["tiny.mar", "tiny.openapi.json"]
    with pytest.raises(ScriptError):
        store.put(Archive.read(changed(mar, tmp_path / "evil.mar", called(modelName="../outside"))))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["store"]
