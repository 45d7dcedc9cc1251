"""An archive of whatever origin -> the files of a folder, and nothing outside of it.

A zip or a tar may name paths and links anywhere, and a few kilobytes may unpack to a full disk.
"""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from handler.errors import ModelMismatch

MAX_RATIO = 100  # of unpacked to packed bytes: packed archives are stored, and weights hardly shrink
MB = 1 << 20
# What the readers of broken, encrypted or oddly compressed archives raise.
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError)


def extract(path: Path, folder: Path) -> None:
    """Unpack a zip, a tar or a folder into an empty folder.

    Raises:
        ModelMismatch: it is no whole archive, there is no room for it, or it unpacks to many times its size.
    """
    room = _Room(path, folder)
    try:
        if path.is_dir():
            room.take(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
            shutil.copytree(path, folder, dirs_exist_ok=True)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:  # sizes first: a compressed stream may be longer than any disk
                    room.take(member.size)
                archive.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(path) as archive:
                room.take(sum(entry.file_size for entry in archive.infolist()))
                archive.extractall(folder)  # noqa: S202 - a zip's members stay in the folder, and become plain files
    except ModelMismatch:
        raise
    except OSError as error:
        raise ModelMismatch(f"{path.name} cannot be unpacked in {folder.parent}: {error.strerror or error}") from error
    except BROKEN as error:
        raise ModelMismatch(f"{path.name} is no whole archive, perhaps cut short: pack or copy it again") from error


class _Room:
    """What an archive may unpack to: what fits on the disk, and no multiple that weights never have."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._taken = 0
        self._free = shutil.disk_usage(folder).free
        self._most = None if path.is_dir() else MAX_RATIO * path.stat().st_size

    def take(self, n_bytes: int) -> None:
        """Count what will be written; raise ModelMismatch when that is too much."""
        self._taken += n_bytes
        if self._most is not None and self._taken > self._most:
            raise ModelMismatch(f"{self._path.name} unpacks to more than {MAX_RATIO} times its size: pack it again")
        if self._taken > self._free:
            free = f"{self._free / MB:.0f} MB are free"
            raise ModelMismatch(
                f"{self._path.name} needs {self._taken / MB:.0f} MB in {self._folder.parent}, where {free}"
            )
