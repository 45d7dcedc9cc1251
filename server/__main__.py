"""`python -m server`: what scripts/serve.sh starts with --server standalone."""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import os
import sys
from pathlib import Path

import uvloop

from scripts.cli.options import natural_float, path_name
from server import log
from server.lifecycle import Lifecycle, Start

SWITCH_INTERVAL_S = 0.0005  # the engine's thread waits for the event loop no longer than this; Python's default is 5 ms


def main() -> int:
    """Parse the command line and serve."""
    arguments = parse_arguments()
    run_dir: Path = arguments.run_dir.resolve()
    log.configure(
        run_dir / "logs" / "server.log" if os.environ.get("LOG_TO") == "file" or os.environ.get("LOG_ALSO") else None,
        to_terminal=os.environ.get("LOG_TO") != "file",
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    temp: Path = arguments.temp.resolve()
    temp.mkdir(parents=True, exist_ok=True)
    start = Start(
        arguments.config.resolve(),
        arguments.model_store.resolve(),
        run_dir,
        temp,
        arguments.models,
        arguments.grace,
    )
    return uvloop.run(Lifecycle(start).run())


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m server", description="Serve .mar archives without Java.")
    parser.add_argument("--config", type=path_name, default=Path("config.properties"), help="the server's settings")
    parser.add_argument("--model-store", type=path_name, default=Path("model_store"), help="where the archives are")
    parser.add_argument("--run-dir", type=path_name, default=Path(), help="gets key_file.json and logs/")
    parser.add_argument("--temp", type=path_name, default=Path("run/temp"), help="gets the unpacked archives")
    parser.add_argument("--models", nargs="*", default=[], metavar="[NAME=]FILE", help="archives to load at the start")
    parser.add_argument("--grace", type=natural_float, default=30, metavar="SECONDS", help="for requests after SIGTERM")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
