"""Ask a Prometheus every query of deploy/grafana/dashboard.json."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request

from handler.protocol import JSON
from scripts.cli.console import ROOT, ScriptError

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"


def check(prometheus: str) -> int:
    """Print every query with the number of its values; return how many have none."""
    n_empty = 0
    for title, query in queries(json.loads(DASHBOARD.read_text(encoding="utf-8"))):
        numbers = values(prometheus, query)
        n_empty += not numbers
        print(f"{len(numbers):3} series  {title}: {query}" if numbers else f"    EMPTY   {title}: {query}")
    return n_empty


def queries(dashboard: dict[str, JSON]) -> list[tuple[str, str]]:
    """Return title and query of each line of each panel, for all servers."""
    return [
        (panel["title"], target["expr"].replace("$instance", ".*"))
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def values(prometheus: str, query: str) -> list[JSON]:
    """Return the values of a query that are numbers."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the address is the operator's
        try:
            series = json.load(response)["data"]["result"]
        except (ValueError, KeyError, TypeError):
            raise ScriptError(f"{prometheus} is no Prometheus: its answer to a query is another") from None
    return [sample["value"][1] for sample in series if sample["value"][1] != "NaN"]
