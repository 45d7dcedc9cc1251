#!/usr/bin/env python3
"""Ask a Prometheus every query of dashboard.json; name those without data and exit with their number.

    scripts/check_dashboard.py http://127.0.0.1:9090

Run it after a change of the dashboard, of metrics.yaml or of TorchServe, against a Prometheus that has scraped a server
under every kind of question for five minutes: predictions, explanations, texts that are too long, refused ones.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from scripts.cli.options import http_address
from scripts.operations import dashboard


def main() -> int:
    """Check all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", type=http_address, metavar="URL", help="of a Prometheus that scrapes the server")
    return dashboard.check(parser.parse_args().prometheus)


if __name__ == "__main__":
    run(main)
