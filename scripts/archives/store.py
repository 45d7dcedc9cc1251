"""The archives of a model store: which version each holds, whether it is complete, and which are kept for a rollback.

NAME.mar is what a server loads when it starts. When it is replaced by another version, the replaced one is kept as
.kept/NAME@VERSION.mar, where `--models all` does not look; scripts/models.py rollback takes it from there.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from handler import archive
from handler.engine import int8_weights
from handler.protocol import JSON
from scripts.cli.console import ROOT, ScriptError
from scripts.client.server import Server
from scripts.client.unpacking import BROKEN, MAX_RATIO

KEPT = ".kept"
CHECKED = Path("run/checked")  # of the run folder: what a server reads that takes signed archives alone
ITS_STORE = Path("run/model_store")  # the path of the store that CHECKED is filled from
RANKED_LABEL_BYTES = 44  # {"label":,"score":0.12345678901234567e-05},
MODEL_WEIGHTS = f"{archive.MODEL}/*.safetensors"
TORCHSERVE_MANIFEST = "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class Archive:
    """One .mar file, with the manifest that TorchServe reads and the handler's own."""

    file: Path
    name: str
    version: str
    manifest: JSON  # manifest.json, which handler/archive.py describes

    @classmethod
    def read(cls, file: Path) -> Archive:
        """Read both manifests of an archive.

        Raises:
            ScriptError: it is not there, cut short, or no archive of scripts/package.py.
        """
        if not file.is_file():
            raise ScriptError(f"no archive at {file}: scripts/package.py makes one")
        try:
            with _opened(file) as opened:
                model = _json(opened, TORCHSERVE_MANIFEST)["model"]
                manifest = _json(opened, archive.MANIFEST)
            name, version = str(model["modelName"]), str(model["modelVersion"])
            read = cls(file, name, version, dict(manifest))
        except (KeyError, TypeError, ValueError) as error:
            raise ScriptError(f"{file} has no manifest that can be read: pack it with scripts/package.py") from error
        if not archive.NAME.fullmatch(name) or not archive.VERSION.fullmatch(version):
            raise ScriptError(f"{file}: its manifest has a name or version that no route can have: pack it again")
        return read

    @property
    def hash(self) -> str:
        """The first digits of the hash of the model's files, as in the header x-model-hash."""
        return str(self.manifest.get("model_hash", ""))[:16]

    def text(self, path: str) -> str:
        """Return a file of text; raises ScriptError where there is none."""
        with self._reading(path) as opened:
            return _text(opened, path)

    def json(self, path: str) -> JSON:
        """Return the content of a file of JSON; raises ScriptError where there is none."""
        with self._reading(path) as opened:
            return _json(opened, path)

    def labels(self) -> list[str]:
        """Return the labels of its model's config."""
        config = self.json(f"{archive.MODEL}/config.json")
        id2label = config.get("id2label") if isinstance(config, dict) else None
        return list(map(str, id2label.values())) if isinstance(id2label, dict) else []

    def weight_bytes(self) -> int:
        """Return the size of its weights."""
        with _opened(self.file) as opened:
            return sum(entry.file_size for entry in opened.infolist() if entry.filename.endswith(".safetensors"))

    def tensor_names(self) -> set[str]:
        """Return the names of its model's tensors, those of int8 where it has no others; reads headers alone.

        Raises:
            ScriptError: a file of weights that has none.
        """
        names: set[str] = set()
        with self._reading(MODEL_WEIGHTS) as opened:
            files = [name for name in opened.namelist() if Path(name).match(MODEL_WEIGHTS)]
            floats = [name for name in files if Path(name).name != int8_weights.FILE]
            for name in floats or files:
                with opened.open(name) as reader:
                    length = int.from_bytes(reader.read(8), "little")
                    names |= set(json.loads(reader.read(min(length, opened.getinfo(name).file_size))))
        return names - {"__metadata__"}

    def damage(self) -> str:
        """Return what differs from what was packed, or nothing; reads all of it."""
        files = self.manifest.get("files")
        if not isinstance(files, dict):
            return f"{archive.MANIFEST} has no table of files"
        try:
            with zipfile.ZipFile(self.file) as opened:
                names = opened.namelist()
                if doubled := next((path for path, n in Counter(names).items() if n > 1), None):
                    return f"{doubled} is in it twice"
                if path := archive.added(names, files):
                    return f"{path} was added after it was packed"
                if sum(entry.file_size for entry in opened.infolist()) > MAX_RATIO * self.file.stat().st_size:
                    return f"it unpacks to more than {MAX_RATIO} times its size"
                for path, digest in files.items():
                    if path not in names:
                        return f"{path} is missing"
                    with opened.open(path) as reader:
                        actual = archive.sha256_of_stream(reader)
                    if actual != digest:
                        return f"{path} is not the file that was packed (SHA-256 differs)"
        except (*BROKEN, OSError) as error:
            return f"it cannot be read to its end ({type(error).__name__})"
        return ""

    @contextmanager
    def _reading(self, path: str) -> Iterator[zipfile.ZipFile]:
        """Open the archive to read one member; raises ScriptError where that is missing or no text."""
        try:
            with _opened(self.file) as opened:
                yield opened
        except (KeyError, ValueError) as error:
            raise ScriptError(f"{self.file}: {path} cannot be read ({type(error).__name__}): pack it again") from error


def ranking_bytes(labels: Sequence[str], max_texts: int) -> int:
    """Return how large the answer to `max_texts` texts with every label can be (`top_k` above the number of labels).

    >>> ranking_bytes(["joy", "anger"], max_texts=1000)
    100000
    """
    return max_texts * sum(len(json.dumps(label)) + RANKED_LABEL_BYTES for label in labels)


@dataclass(frozen=True)
class Store:
    """A model store: a folder of archives."""

    folder: Path

    @classmethod
    def of(cls, server: Server) -> Store:
        """Return the store of a running server, by its command line; without one, the repository's."""
        if checked_folder(server):
            return cls(Path((server.run_dir / ITS_STORE).read_text(encoding="utf-8").removesuffix("\n")))
        return cls(_read_by(server) or ROOT / "model_store")

    def current(self, name: str) -> Path:
        """Return the path of the archive that a server loads when it starts."""
        return self.folder / f"{name}.mar"

    def kept(self, name: str) -> dict[str, Path]:
        """Return the archives that were replaced, by version."""
        files = sorted((self.folder / KEPT).glob(f"{name}@*.mar"))
        return {file.stem.rpartition("@")[2]: file for file in files}

    def keep(self, name: str, instead_of: str) -> None:
        """Keep NAME.mar, if it can be read and is another version than the one that will replace it."""
        try:
            old = Archive.read(self.current(name))
        except ScriptError:
            return
        if old.version != instead_of:
            (self.folder / KEPT).mkdir(exist_ok=True)
            _link(old.file, self.folder / KEPT / f"{name}@{old.version}.mar")

    def put(self, new: Archive) -> None:
        """Make an archive the one that a server loads when it starts, and keep the one that it replaces."""
        target = self.current(new.name)
        if target.is_file() and target.samefile(new.file):
            return
        self.keep(new.name, new.version)
        document = new.text(archive.OPENAPI)
        _link(new.file, target, shared=new.file.is_relative_to(self.folder))
        (self.folder / f"{new.name}.openapi.json").write_bytes(document.encode())

    def keep_only(self, name: str, version: str) -> None:
        """Delete every kept archive but that of one version."""
        for number, file in self.kept(name).items():
            if number != version:
                file.unlink()

    @contextmanager
    def offered(self, file: Path) -> Iterator[str]:
        """Let a server register an archive from wherever it lies; yield the name to register it by."""
        if file.parent.resolve() == self.folder.resolve():
            yield file.name
            return
        new = Archive.read(file)
        link = self.folder / f"{new.name}@{new.version}.mar"
        _link(file, link)
        try:
            yield link.name
        finally:
            link.unlink(missing_ok=True)


def checked_folder(server: Server) -> Path | None:
    """Return the folder of checked copies that a running server reads; None where it reads the store itself."""
    folder, read = server.run_dir / CHECKED, _read_by(server)
    return folder if read is not None and read.resolve() == folder.resolve() else None


def _read_by(server: Server) -> Path | None:
    """Return the folder that a running server reads archives from."""
    try:
        words = psutil.Process(int((server.run_dir / "run" / "pid").read_text())).cmdline()
        return Path(words[words.index("--model-store") + 1])
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; raises ScriptError for what is no whole one."""
    try:
        with zipfile.ZipFile(file) as opened:
            yield opened
    except BROKEN as error:
        if isinstance(error, ValueError):  # of the content of a member: the caller knows what it should be
            raise
        raise ScriptError(f"{file} is no whole archive, perhaps cut short: pack or copy it again") from error


def _text(opened: zipfile.ZipFile, path: str) -> str:
    """Return a member that holds text; raises ScriptError for a longer one than any is, before it is unpacked."""
    if opened.getinfo(path).file_size > archive.MAX_TEXT_BYTES:
        raise ScriptError(f"{path} has more than {archive.MAX_TEXT_BYTES >> 20} MB: pack it again")
    return opened.read(path).decode()


def _json(opened: zipfile.ZipFile, path: str) -> JSON:
    """Return a member that holds JSON; raises ValueError for one that does not, or is nested too deep."""
    try:
        return json.loads(_text(opened, path))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep") from error


def _link(file: Path, target: Path, *, shared: bool = True) -> None:
    """Put a file at a second path in one step; `shared`: as a hard link, where the file system can."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        if not shared:
            raise OSError
        os.link(file, partial)
    except OSError:
        shutil.copyfile(file, partial)
    partial.replace(target)
    partial.unlink(missing_ok=True)  # a file is not renamed to itself
