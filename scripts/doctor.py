#!/usr/bin/env python3
"""Tell what a server's settings are, who says so, and what is wrong with them; a server need not run.

Looks at config.properties, the environment (of the running server, where there is one), the archives of the model
store, the versions installed, the machine, and what a running server says. Changes nothing.

Exits with 0 when nothing is wrong, with 1 on warnings, with 2 on errors.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from handler.protocol import JSON
from scripts.archives.store import Store
from scripts.cli.console import run, say, table
from scripts.client.server import Server, add_options
from scripts.client.settings import Setting
from scripts.operations import inventory
from scripts.operations.checks import Finding, examine
from scripts.operations.inventory import Facts

EXIT = {"error": 2, "warning": 1, "note": 0}


def main() -> int:
    """Look, judge, tell."""
    arguments = parse_arguments()
    server = Server.of(arguments)
    store = Store(arguments.model_store) if arguments.model_store else Store.of(server)
    facts = inventory.gather(server, arguments.config, store)
    findings = examine(facts)
    if arguments.json:
        print(json.dumps(report(facts, findings), indent=2, ensure_ascii=False))
    else:
        tell(facts, findings)
    return max((EXIT[finding.level] for finding in findings), default=0)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-store", type=Path, metavar="DIR", help="default: that of the running server")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_options(parser)
    return parser.parse_args()


def report(facts: Facts, findings: list[Finding]) -> JSON:
    """Return everything as JSON."""
    return {
        "findings": [{"level": one.level, "what": one.what, "do": one.do} for one in findings],
        "settings": {key: {"value": told(key, one), "from": one.origin} for key, one in facts.settings.items()},
        "environment": {name: value for name, value in facts.environment.items() if not secret(name)},
        "versions": {name: installed for name, (installed, _) in facts.versions.items()} | {"java": facts.java[1]},
        "machine": {"cores": facts.cores, "memory_bytes": facts.memory, "free_disk_bytes": facts.free_disk},
        "archives": [
            {
                "file": packed.file.name,
                "name": packed.archive and packed.archive.name,
                "version": packed.archive and packed.archive.version,
                "model_hash": packed.archive and packed.archive.hash,
                "settings": packed.config and asdict(packed.config),
                "broken": packed.broken or None,
            }
            for packed in facts.archives
        ],
        "server": {
            "running": facts.running,
            "pid": facts.pid,
            "models": [live_row(facts, i) for i in range(len(facts.live))],
        },
    }


def tell(facts: Facts, findings: list[Finding]) -> None:
    """Print tables of what is effective, then what is wrong."""
    rows = [[key, told(key, one), one.origin] for key, one in sorted(facts.settings.items())]
    table(["setting", "value", "from"], rows + [[name, value, "environment"] for name, value in other(facts).items()])
    installed = {name: number or "missing" for name, (number, _) in facts.versions.items()}
    installed |= {
        "java": facts.java[1] or "missing",
        "cores": str(facts.cores),
        "memory": f"{facts.memory / 1e9:.1f} GB",
    }
    say(", ".join(f"{name} {value}" for name, value in installed.items()))
    if facts.archives:
        say(f"archives of {facts.store}:")
        table(
            ["archive", "model", "version", "workers", "threads", "batch", "queue", "timeout", "hash"],
            [archive_row(facts, index) for index in range(len(facts.archives))],
        )
    if facts.live:
        say(f"the running server{f' (pid {facts.pid})' if facts.pid else ''}:")
        live = [live_row(facts, index) for index in range(len(facts.live))]
        table(list(live[0]), [list(row.values()) for row in live])
    else:
        say("no server answers")
    if findings:
        table(["", "what is wrong", "what to do"], [[one.level, one.what, one.do] for one in findings])
    else:
        say("nothing is wrong")


def archive_row(facts: Facts, index: int) -> list[object]:
    """Return one row of the table of archives; what an archive leaves open comes from the settings."""
    packed = facts.archives[index]
    archive, config = packed.archive, packed.config
    known = [packed.file.name, archive.name if archive else "?", archive.version if archive else "?"]
    if not archive or not config:
        return [*known, *["?"] * 6]
    workers = config.frontend.minWorkers or 1
    return [
        *known,
        workers,
        config.handler.threads_of(workers, facts.cores),
        config.frontend.batchSize or 1,
        config.frontend.jobQueueSize or facts.setting("job_queue_size"),
        f"{config.frontend.responseTimeout or facts.setting('default_response_timeout')} s",
        archive.hash,
    ]


def live_row(facts: Facts, index: int) -> dict[str, JSON]:
    """Return what one version on the server says of itself."""
    model, described = facts.live[index].model, facts.live[index].described
    return {
        "model": model.name,
        "version": model.version,
        "default": "yes" if model.default else "",
        "archive": model.archive,
        "workers": f"{model.ready}/{model.min_workers}",
        "threads": described.get("threads", "?"),
        "batch": model.batch_size,
        "state": model.state,
        "hash": str(described.get("model_hash", "?"))[:16],
    }


def other(facts: Facts) -> dict[str, str]:
    """Return the variables that are no settings."""
    return {name: value for name, value in sorted(facts.environment.items()) if not name.startswith("TS_")}


def told(key: str, setting: Setting) -> str:
    """Return a value as it may be shown."""
    return "(not shown)" if secret(key) else setting.value


def secret(name: str) -> bool:
    """Tell whether a setting is a password."""
    return "pass" in name.lower()


if __name__ == "__main__":
    run(main)
