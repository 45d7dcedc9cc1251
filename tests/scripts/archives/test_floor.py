"""An older archive, signed as the newer one is, does not come back by itself."""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.archives import attestation
from scripts.archives.attestation import Packing, attest, attestation_file
from scripts.archives.floor import NEXT, NOT_OLDER_THAN, Floor
from scripts.archives.signing import PUBLIC_KEY, Offer, key_of_environment
from scripts.archives.store import Archive, Store
from scripts.cli.console import ScriptError
from tests.support.key_pairs import key_pair

DAY = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)
EARLIER, LATER = DAY - datetime.timedelta(days=3), DAY + datetime.timedelta(days=3)


@dataclass(frozen=True)
class Packed:
    """A store with tiny 1.0, the keys that sign it, and what a run folder remembers."""

    store: Store
    private: Path
    public: Path
    floor: Floor
    monkeypatch: pytest.MonkeyPatch

    @property
    def archive(self) -> Archive:
        """Return the archive."""
        return Archive.read(self.store.current("tiny"))

    def pack_at(self, time: datetime.datetime) -> None:
        """Sign its provenance as of another time."""
        with self.monkeypatch.context() as patched:
            patched.setattr(attestation, "now", lambda: time)
            attest(self.archive.file, self.private, Packing(time, {}))

    def check(self) -> attestation.Attestation | None:
        """Check its age."""
        return self.floor.check(self.store, self.archive, self.public)

    def serve(self) -> None:
        """Remember it as served."""
        said = self.check()
        assert said
        self.floor.remember(self.archive, said)


@pytest.fixture
def packed(tmp_path: Path, mar: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """Return an archive in a store of its own."""
    (tmp_path / "store").mkdir()
    shutil.copy(mar, tmp_path / "store" / "tiny.mar")
    return Packed(Store(tmp_path / "store"), *key_pair(tmp_path, "mine"), Floor(tmp_path / "home"), monkeypatch)


def test_what_is_older_than_what_served_is_refused(packed: Packed) -> None:
    """The same and newer ones pass; an operator may go back, and from there on again."""
    packed.pack_at(DAY)
    packed.serve()
    packed.serve()
    packed.pack_at(EARLIER)
    with pytest.raises(ScriptError, match=r"packed at 2026-11-17.*before 1\.0 of 2026-11-20.*accept tiny\.mar takes"):
        packed.check()
    packed.floor.accept(packed.store, packed.archive, packed.public)
    packed.serve()
    packed.pack_at(LATER)
    packed.serve()
    packed.pack_at(DAY)
    with pytest.raises(ScriptError, match="packed at 2026-11-20"):
        packed.check()


def test_without_provenance_nothing_older_can_be_told(packed: Packed) -> None:
    """It passes as long as no time is known, and not by removing the file of one that has a time."""
    assert packed.check() is None
    packed.pack_at(DAY)
    packed.serve()
    attestation_file(packed.store, packed.archive).unlink()
    with pytest.raises(ScriptError, match="no provenance that says when it was packed"):
        packed.check()
    packed.floor.accept(packed.store, packed.archive, packed.public)
    assert packed.check() is None
    packed.monkeypatch.setenv(NOT_OLDER_THAN, "2026-11-20T12:00:00Z")
    with pytest.raises(ScriptError, match=f"{NOT_OLDER_THAN} demands it"):
        packed.check()


def test_a_time_of_the_environment_counts_for_everybody(packed: Packed) -> None:
    """Also where nothing is remembered, and where an operator goes back; of one model before that of all."""
    packed.pack_at(EARLIER)
    packed.monkeypatch.setenv(NOT_OLDER_THAN, "2026-11-20T12:00:00Z")
    with pytest.raises(ScriptError, match=rf"packed at 2026-11-17.*{NOT_OLDER_THAN} says 2026-11-20"):
        packed.check()
    with pytest.raises(ScriptError, match=NOT_OLDER_THAN):
        packed.floor.accept(packed.store, packed.archive, packed.public)
    packed.monkeypatch.setenv(NOT_OLDER_THAN, "2026-11-20T12:00:00Z, tiny=2026-11-17T00:00:00Z")
    packed.serve()
    packed.monkeypatch.setenv(NOT_OLDER_THAN, "other=2026-11-20T12:00:00Z")
    packed.serve()


@pytest.mark.parametrize("word", ["tomorrow", "tiny=", "2026-11-20", "tiny:2026-11-20T12:00:00Z"])
def test_a_time_that_is_none_is_refused(packed: Packed, word: str) -> None:
    """Instead of counting as none."""
    packed.monkeypatch.setenv(NOT_OLDER_THAN, word)
    with pytest.raises(ScriptError, match="is no time like"):
        packed.check()


def test_a_time_needs_a_key(packed: Packed) -> None:
    """Without one it would protect nothing."""
    packed.monkeypatch.setenv(NOT_OLDER_THAN, "2026-11-20T12:00:00Z")
    with pytest.raises(ScriptError, match=f"needs {PUBLIC_KEY}"):
        key_of_environment()


def test_the_future_is_refused(packed: Packed) -> None:
    """Everything that is packed until then would be refused after it."""
    packed.pack_at(attestation.now() + datetime.timedelta(days=1))
    with pytest.raises(ScriptError, match="which is in the future"):
        packed.check()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": "1.0", "packed": "yesterday"}'])
def test_what_cannot_be_read_is_no_permission(packed: Packed, content: str) -> None:
    """And an operator can write it anew."""
    packed.pack_at(DAY)
    packed.serve()
    file = packed.floor.run_dir / "run" / "newest" / "tiny.json"
    file.write_text(content)
    with pytest.raises(ScriptError, match="accept FILE writes it anew"):
        packed.check()
    packed.floor.accept(packed.store, packed.archive, packed.public)
    packed.serve()


def test_of_two_versions_that_start_together_the_older_one_counts(packed: Packed) -> None:
    """Else the next start would refuse it."""
    packed.pack_at(DAY)
    older = packed.check()
    packed.pack_at(LATER)
    packed.floor.remember_next([(packed.archive, packed.check()), (packed.archive, older)])
    assert '"2026-11-20T12:00:00Z"' in (packed.floor.run_dir / NEXT / "tiny.json").read_text()


def test_what_cannot_be_remembered_goes_on_serving(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    """It is registered already, so a disk that is full is a note and no failure."""
    packed.pack_at(DAY)
    offer = Offer("tiny.mar", packed.floor, packed.archive, packed.check())
    packed.floor.run_dir.mkdir()
    (packed.floor.run_dir / "run").write_text("no folder")
    offer.served()
    assert "that tiny 1.0 serves is not remembered" in capsys.readouterr().err
