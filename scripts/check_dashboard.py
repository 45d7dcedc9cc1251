#!/usr/bin/env python3
"""Ask a Prometheus every query of dashboard.json; name those without data and exit with their number.

    scripts/check_dashboard.py http://127.0.0.1:9090

Run it after a change of the dashboard, of metrics.yaml or of TorchServe, against a Prometheus that has scraped a server
under every kind of question for five minutes: predictions, explanations, texts that are too long, refused ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
import urllib.request
from typing import Any

from scripts.cli.console import ROOT

DASHBOARD = ROOT / "deploy/grafana/dashboard.json"


def queries(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the title and query of each line of each panel, for all servers."""
    return [
        (panel["title"], target["expr"].replace("$instance", ".*"))
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def values(prometheus: str, query: str) -> list[Any]:
    """Return the values of a query that are numbers."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the address is the operator's
        series = json.load(response)["data"]["result"]
    return [one["value"][1] for one in series if one["value"][1] != "NaN"]


def main() -> int:
    """Check all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", metavar="URL", help="of a Prometheus that scrapes the server")
    prometheus = parser.parse_args().prometheus.rstrip("/")
    empty = 0
    for title, query in queries(json.loads(DASHBOARD.read_text(encoding="utf-8"))):
        found = values(prometheus, query)
        empty += not found
        print(f"{len(found):3} values  {title}: {query}" if found else f"    EMPTY   {title}: {query}")
    return empty


if __name__ == "__main__":
    sys.exit(main())
