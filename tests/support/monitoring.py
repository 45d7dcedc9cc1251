"""Rules, dashboard and the metrics that they may query."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.support.gateway import GATEWAY_METRICS
from tests.support.samples import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES = [rule["expr"] for rule in RULES] + [target["expr"] for target in TARGETS]
CONFIG = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
KEDA = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "queue" / "scaledobject.yaml").read_text(encoding="utf-8"))
QUERIES += [trigger["metadata"]["query"] for trigger in KEDA["spec"]["triggers"]]


def declared() -> dict[str, set[str]]:
    """Return every metric name that a scrape may contain, with its labels."""
    sections = yaml.safe_load((ROOT / "metrics.yaml").read_text(encoding="utf-8"))
    exposed: dict[str, set[str]] = {}
    for section, extra_labels in (("ts_metrics", set()), ("model_metrics", {"Hostname"})):
        for kind, metrics in sections[section].items():
            for metric in metrics:
                suffixes = {"_bucket": {"le"}, "_sum": set(), "_count": set()} if kind == "histogram" else {"": set()}
                for suffix, suffix_labels in suffixes.items():
                    exposed[metric["name"] + suffix] = {*metric["dimensions"], *extra_labels, *suffix_labels}
    return exposed


EXPOSED = (
    declared()
    | GATEWAY_METRICS
    | {rule["record"]: set() for rule in RULES if "record" in rule}
    | {"up": {"job", "instance"}}
)
PROMQL_WORDS = {"sum", "by", "rate", "on", "or", "and", "unless", "changes", "increase", "count", "vector"} | {
    "histogram_quantile",
    "max",
    "label_replace",
    "clamp_min",
    "ln",
}
# Of models packed with --calibrate-scores; tests/handler/test_drift.py and test_confidence.py have one.
OF_CALIBRATED_MODELS = {
    name for name in EXPOSED if re.match("bert_(observed|confidence|judged|abstained|reference)_", name)
}


def names(query: str) -> set[str]:
    """Return the metrics that a query names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[\w+\]|(by|on|group_left) \([^)]*\)', " ", query)
    return set(re.findall(r"[A-Za-z_][\w:]*", bare)) - PROMQL_WORDS - {"e6"}
