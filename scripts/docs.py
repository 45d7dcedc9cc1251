#!/usr/bin/env python3
"""Build the documentation site, to read in a browser, offline too.

  scripts/docs.py                        # site/index.html
  python -m http.server -d site          # http://127.0.0.1:8000, with the search

Its pages are the Markdown files of this folder, and a reference made from the commands' --help, the fields of the
settings and the OpenAPI document of the quickstart's model. Every link and anchor of the result is checked. It needs
requirements/docs.txt and model_store/intents.openapi.json, which scripts/quickstart.sh makes.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
from pathlib import Path

from scripts.cli.options import path_name
from scripts.documentation.build import build


def main() -> None:
    """Build the site."""
    build(parse_arguments().output)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=path_name, default=Path("site"), metavar="DIR", help="default: site")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
