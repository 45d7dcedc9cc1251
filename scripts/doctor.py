#!/usr/bin/env python3
"""Report the settings of a server, where each is set, and what is wrong with them; a server need not run.

TorchServe and the standalone server: that which runs, or else the one that --server names.

Looks at config.properties, the environment (of the running server, where there is one), the archives of the model
store, the versions installed, the machine, and what a running server says. Changes nothing.

Exits with 0 when nothing is wrong, with 1 on warnings, with 2 on errors.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import json

from scripts.archives.store import Store
from scripts.cli.options import path_name
from scripts.client.server import Server, add_options
from scripts.operations.checks import run_checks
from scripts.operations.inventory import KINDS, collect
from scripts.operations.report import as_json, print_report

EXIT_CODES = {"error": 2, "warning": 1, "note": 0}


def main() -> int:
    """Collect, check, report."""
    arguments = parse_arguments()
    server = Server.of(arguments)
    store = Store(arguments.model_store) if arguments.model_store else Store.of(server)
    inventory = collect(server, arguments.config, store, arguments.server)
    findings = run_checks(inventory)
    if arguments.json:
        print(json.dumps(as_json(inventory, findings), indent=2, ensure_ascii=False))
    else:
        print_report(inventory, findings)
    return max((EXIT_CODES[finding.level] for finding in findings), default=0)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-store", type=path_name, metavar="DIR", help="default: that of the running server")
    parser.add_argument(
        "--server",
        choices=KINDS,
        help="the server to check the settings for where none runs (default: SERVE_SERVER, or what is installed)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
