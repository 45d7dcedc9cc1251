"""A server that takes signed archives alone reads copies that were checked, whatever happens to the model store."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import requests

from handler.config import ModelConfig
from scripts.archives import attestation
from scripts.archives.attestation import Packing, attest, now
from scripts.archives.build import ArchiveContents, build
from scripts.archives.signing import PUBLIC_KEY, sign
from scripts.archives.store import Archive, Store
from scripts.cli.console import ROOT
from scripts.client.server import Server
from tests.support.key_pairs import key_pair
from tests.support.live import activated, own_config
from tests.support.samples import MakeModel

pytestmark = pytest.mark.server
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Signed:
    """A store with tiny 1.0, which is signed, and an unsigned archive of the same name and version elsewhere."""

    home: Path
    store: Path
    unsigned: Path
    private: Path
    script: Script

    @property
    def server(self) -> Server:
        """Return the server as the scripts see it."""
        return Server.read(self.home / "config.properties", self.home)

    @property
    def checked(self) -> Path:
        """Return the folder that the server reads."""
        return self.home / "run" / "checked"

    def replace(self) -> None:
        """Put the unsigned archive into the place of the signed one."""
        Path(shutil.copy(self.unsigned, self.store / "tiny.other")).replace(self.store / "tiny.mar")

    def model_hash(self) -> str:
        """Return the hash of the model that serves."""
        done = self.script("models.py", "describe", "tiny")
        assert done.returncode == 0, done.stderr
        return next(line.split('"')[3] for line in done.stdout.splitlines() if '"model_hash"' in line)


@pytest.fixture
def signed(mar: Path, make_model: MakeModel) -> Iterator[Signed]:
    """Return the store, and a runner of scripts for a server of its own."""
    with tempfile.TemporaryDirectory(prefix="signed-") as folder:
        home = Path(folder)
        (store := home / "store").mkdir()
        shutil.copy(mar, store / "tiny.mar")
        private, public = key_pair(home, "mine")
        sign(store / "tiny.mar", private)
        other = make_model(labels=("red", "green", "blue"))
        unsigned = build(ArchiveContents(other, "tiny", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), home)
        config, _ = own_config(home)
        options = ["--config", str(config), "--run-dir", folder]

        def script(name: str, *words: str, key: bool = True) -> subprocess.CompletedProcess[str]:
            environment = activated() | ({PUBLIC_KEY: str(public)} if key else {})
            environment["TS_MODEL_STORE"] = str(home / "elsewhere")  # would win over --model-store
            command = [str(ROOT / "scripts" / name), *words, *options]
            return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

        try:
            yield Signed(home, store, unsigned, private, script)
        finally:
            script("serve.sh", "stop")


@pytest.mark.parametrize("kind", ["torchserve", "standalone"])
def test_what_was_checked_is_what_is_loaded(signed: Signed, kind: str) -> None:
    """Replaced while the server starts; registered by HTTP and by commands, with and without the key."""
    genuine = str(Archive.read(signed.store / "tiny.mar").manifest["model_hash"])
    ended = threading.Event()

    def replace_while_it_starts() -> None:
        while not (signed.home / "run" / "temp").exists() and not ended.is_set():
            time.sleep(0.005)  # made after the check and before the server is started
        signed.replace()

    replacing = threading.Thread(target=replace_while_it_starts)
    replacing.start()
    start = ["start", "--server", kind, "--model-store", str(signed.store), "--models", "tiny"]
    started = signed.script("serve.sh", *start)
    ended.set()
    replacing.join()
    assert started.returncode == 0, started.stderr
    assert Archive.read(signed.store / "tiny.mar").manifest["model_hash"] != genuine
    assert signed.model_hash() == genuine

    assert Store.of(signed.server).folder == signed.store
    words = psutil.Process(int((signed.home / "run" / "pid").read_text())).cmdline()
    assert words[words.index("--model-store") + 1] == str(signed.checked)
    assert signed.checked.stat().st_mode & 0o777 == 0o700
    assert not list(signed.checked.iterdir())  # unpacked: their room is free again

    shutil.copy(signed.unsigned, signed.store / "more.mar")
    headers = {"Authorization": f"Bearer {signed.server.key('management')}"}
    by_hand = requests.post(
        f"{signed.server.management}/models", params={"url": "more.mar"}, headers=headers, timeout=60
    )
    assert by_hand.status_code == 404

    assert signed.script("models.py", "unregister", "tiny").returncode == 0
    unsigned = signed.script("models.py", "register", "tiny")
    assert (unsigned.returncode, "tiny.mar is refused: it has another content" in unsigned.stderr) == (2, True)
    shutil.copy(signed.unsigned, signed.store / "tiny.mar")
    sign(signed.store / "tiny.mar", signed.private)
    keyless = signed.script("models.py", "register", "tiny", key=False)
    assert (keyless.returncode, f"set {PUBLIC_KEY}" in keyless.stderr) == (2, True)
    registered = signed.script("models.py", "register", "tiny")
    assert registered.returncode == 0, registered.stderr
    assert signed.model_hash() != genuine
    assert not list(signed.checked.iterdir())

    assert signed.script("serve.sh", "stop").returncode == 0
    assert not signed.checked.exists()
    assert not (signed.home / "run" / "model_store").exists()


def test_another_version_is_promoted_from_a_checked_copy(signed: Signed, model_folder: Path) -> None:
    """And back; an unsigned one leaves the old version serving."""
    start = ["start", "--server", "standalone", "--model-store", str(signed.store), "--models", "tiny"]
    started = signed.script("serve.sh", *start)
    assert started.returncode == 0, started.stderr
    Store(signed.store).keep("tiny", instead_of="2.0")
    build(ArchiveContents(model_folder, "tiny", "2.0", ModelConfig.read(ROOT / "model-config.yaml")), signed.store)
    refused = signed.script("models.py", "promote", "tiny", "--version", "2.0")
    assert refused.returncode == 2
    assert "tiny.mar is not signed: tiny@2.0.sig is missing" in refused.stderr
    assert "tiny 1.0 goes on serving" in refused.stderr
    sign(signed.store / "tiny.mar", signed.private)
    promoted = signed.script("models.py", "promote", "tiny", "--version", "2.0")
    assert promoted.returncode == 0, promoted.stderr
    back = signed.script("models.py", "rollback", "tiny")
    assert back.returncode == 0, back.stderr
    assert Archive.read(signed.store / "tiny.mar").version == "1.0"
    assert not list(signed.checked.iterdir())


def test_an_older_archive_does_not_come_back_by_itself(
    signed: Signed, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed as it is: not in the place of the newer one, by no command but the two that say so."""
    with monkeypatch.context() as patched:
        patched.setattr(attestation, "now", lambda: now() - datetime.timedelta(days=3))
        attest(signed.store / "tiny.mar", signed.private, Packing(now(), {}))
    first = shutil.copy(signed.store / "tiny.mar", signed.home / "first.mar")
    start = ["start", "--server", "standalone", "--model-store", str(signed.store), "--models", "tiny"]
    assert signed.script("serve.sh", *start).returncode == 0
    Store(signed.store).keep("tiny", instead_of="2.0")
    build(ArchiveContents(model_folder, "tiny", "2.0", ModelConfig.read(ROOT / "model-config.yaml")), signed.store)
    sign(signed.store / "tiny.mar", signed.private)
    attest(signed.store / "tiny.mar", signed.private, Packing(now(), {}))
    second = shutil.copy(signed.store / "tiny.mar", signed.home / "second.mar")
    assert signed.script("models.py", "promote", "tiny", "--version", "2.0").returncode == 0

    shutil.copy(first, signed.store / "older.mar")
    registered = signed.script("models.py", "register", "older")
    assert (registered.returncode, ", before 2.0 of 20" in registered.stderr) == (2, True)
    promoted = signed.script("models.py", "promote", "tiny", "--version", "1.0", "--archive", first)
    assert (promoted.returncode, "scripts/models.py rollback tiny" in promoted.stderr) == (2, True)
    assert signed.script("serve.sh", "stop").returncode == 0
    (signed.store / "tiny.mar").unlink()
    shutil.copy(first, signed.store / "tiny.mar")
    refused = signed.script("serve.sh", *start)
    assert (refused.returncode, "tiny.mar (tiny 1.0) is refused: it was packed at" in refused.stderr) == (2, True)
    assert "scripts/models.py accept tiny.mar takes this archive" in refused.stderr
    shutil.copy(second, signed.store / "other.mar")
    other = signed.script("serve.sh", *start[:-1], "bert=other.mar")
    assert (other.returncode, "it holds tiny, and would be served as bert" in other.stderr) == (2, True)

    shutil.copy(second, signed.store / "tiny.mar")
    assert signed.script("serve.sh", *start).returncode == 0
    back = signed.script("models.py", "rollback", "tiny")
    assert back.returncode == 0, back.stderr
    assert signed.script("serve.sh", "stop").returncode == 0
    again = signed.script("serve.sh", *start)
    assert again.returncode == 0, again.stderr
    assert signed.script("models.py", "promote", "tiny", "--version", "2.0", "--archive", second).returncode == 0
    assert signed.script("serve.sh", "stop").returncode == 0
    (signed.store / "tiny.mar").unlink()
    shutil.copy(first, signed.store / "tiny.mar")
    assert signed.script("serve.sh", *start).returncode == 2
    accepted = signed.script("models.py", "accept", "tiny.mar", "--model-store", str(signed.store))
    assert accepted.returncode == 0, accepted.stderr
    assert signed.script("serve.sh", *start).returncode == 0


def test_a_server_that_reads_the_store_itself_gets_no_checked_archive(signed: Signed) -> None:
    """It would read the archive again after the check."""
    start = ["start", "--server", "standalone", "--model-store", str(signed.store)]
    assert signed.script("serve.sh", *start, key=False).returncode == 0
    refused = signed.script("models.py", "register", "tiny")
    assert refused.returncode == 2
    assert f"the server was started without {PUBLIC_KEY}" in refused.stderr
    assert signed.script("models.py", "register", "tiny", key=False).returncode == 0
