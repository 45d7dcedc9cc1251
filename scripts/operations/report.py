"""The report of scripts/doctor.py: inventory and findings as JSON, or as tables for a person."""

from __future__ import annotations

from dataclasses import asdict

from handler.protocol import JSON
from scripts.cli.console import say, table
from scripts.client.settings import Setting
from scripts.operations.checks import Finding
from scripts.operations.inventory import ArchiveInfo, Inventory, ServedModel


def as_json(inventory: Inventory, findings: list[Finding]) -> JSON:
    """Return inventory and findings as JSON."""
    return {
        "findings": [{"level": finding.level, "what": finding.problem, "do": finding.remedy} for finding in findings],
        "settings": {
            key: {"value": shown(key, setting), "from": setting.origin} for key, setting in inventory.settings.items()
        },
        "environment": {name: value for name, value in inventory.environment.items() if not is_secret(name)},
        "versions": {name: installed for name, (installed, _) in inventory.versions.items()}
        | ({"java": inventory.java[1]} if inventory.java else {}),
        "machine": {"cores": inventory.cores, "memory_bytes": inventory.memory, "free_disk_bytes": inventory.free_disk},
        "archives": [
            {
                "file": info.file.name,
                "name": info.archive and info.archive.name,
                "version": info.archive and info.archive.version,
                "model_hash": info.archive and info.archive.hash,
                "settings": info.config and asdict(info.config),
                "broken": info.problem or None,
            }
            for info in inventory.archives
        ],
        "server": {
            "kind": inventory.kind,
            "running": inventory.running,
            "pid": inventory.pid,
            "models": [served_row(served) for served in inventory.served],
        },
    }


def print_report(inventory: Inventory, findings: list[Finding]) -> None:
    """Print tables of what is in force, then what is wrong."""
    rows = [[key, shown(key, setting), setting.origin] for key, setting in sorted(inventory.settings.items())]
    variables = [[name, value, "environment"] for name, value in other_variables(inventory).items()]
    table(["setting", "value", "from"], rows + variables)
    versions = {name: number or "missing" for name, (number, _) in inventory.versions.items()}
    versions |= {"java": inventory.java[1] or "missing"} if inventory.java else {}
    versions |= {
        "cores": str(inventory.cores),
        "memory": f"{inventory.memory / 1e9:.1f} GB",
    }
    say(", ".join(f"{name} {value}" for name, value in versions.items()))
    if inventory.archives:
        say(f"archives of {inventory.store}:")
        table(
            ["archive", "model", "version", "workers", "threads", "batch", "queue", "timeout", "hash"],
            [archive_row(inventory, info) for info in inventory.archives],
        )
    if inventory.served:
        say(f"the running server{f' (pid {inventory.pid})' if inventory.pid else ''}:")
        served = [served_row(served) for served in inventory.served]
        table(list(served[0]), [list(row.values()) for row in served])
    elif inventory.running:
        say(f"the running server{f' (pid {inventory.pid})' if inventory.pid else ''} has no models")
    elif inventory.unreachable:
        say("a server listens, but does not list its models")
    else:
        say(f"no server answers; checked for --server {inventory.kind}")
    if findings:
        table(
            ["", "what is wrong", "what to do"],
            [[finding.level, finding.problem, finding.remedy] for finding in findings],
        )
    else:
        say("nothing is wrong")


def archive_row(inventory: Inventory, info: ArchiveInfo) -> list[object]:
    """Return one row of the table of archives; what an archive leaves open comes from the settings."""
    archive, config = info.archive, info.config
    name = [info.file.name, archive.name if archive else "?", archive.version if archive else "?"]
    if not archive or not config:
        return [*name, *["?"] * 6]
    workers = inventory.workers(config)
    return [
        *name,
        workers,
        config.handler.threads_of(workers, inventory.cores),
        config.frontend.batchSize or 1,
        config.frontend.jobQueueSize or inventory.setting("job_queue_size"),
        f"{config.frontend.responseTimeout or inventory.setting('default_response_timeout')} s",
        archive.hash,
    ]


def served_row(served: ServedModel) -> dict[str, JSON]:
    """Return one row of the table of models on the server."""
    model, description = served.model, served.description
    return {
        "model": model.name,
        "version": model.version,
        "default": "yes" if model.default else "",
        "archive": model.archive,
        "workers": f"{model.ready}/{model.min_workers}",
        "threads": description.get("threads", "?"),
        "batch": model.batch_size,
        "state": model.state,
        "hash": str(description.get("model_hash", "?"))[:16],
    }


def other_variables(inventory: Inventory) -> dict[str, str]:
    """Return the environment variables that are no settings."""
    return {name: value for name, value in sorted(inventory.environment.items()) if not name.startswith("TS_")}


def shown(key: str, setting: Setting) -> str:
    """Return the value of a setting, or a placeholder for a password."""
    return "(not shown)" if is_secret(key) else setting.value


def is_secret(name: str) -> bool:
    """Tell whether a setting is a password."""
    return "pass" in name.lower()
