#!/usr/bin/env python3
"""Show a page in the browser on which to ask a running server: type texts, choose a model, see the answers.

  scripts/playground.py                                      # the server of this folder
  scripts/playground.py --run-dir run-2 --config two.properties

Labels as bars, entities and answers in their texts, masks filled, similarities as a matrix, rankings, explanations,
two versions side by side; with each answer its time, its headers, and the lines of curl and Python that ask the same.
The page also takes the address and keys of another server.

It works without internet and keeps no text: nothing is logged, stored or sent anywhere but to the server that is asked.
Only this machine reaches it, unless --host says otherwise. It needs requirements/playground.txt.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from scripts.cli.console import ROOT
from scripts.cli.options import path_name, port
from scripts.client.server import Server, add_options
from scripts.explorer.explorer import Explorer
from scripts.explorer.serving import is_loopback, serve


def main() -> None:
    """Serve the page."""
    arguments = parse_arguments()
    explorer = Explorer(Server.of(arguments), arguments.report, others=is_loopback(arguments.host))
    serve(explorer, arguments.host, arguments.port)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=port, default=7860, help="of the page (default: 7860)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument(
        "--report",
        type=path_name,
        default=ROOT / "evaluation" / "report.html",
        metavar="FILE",
        help="of scripts/evaluate.py, to show beside the model (default: evaluation/report.html)",
    )
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
