"""Check rules and dashboard against the metrics that TorchServe exposes (metrics.yaml); CI has no promtool.

`promtool test rules deploy/prometheus/rules_test.yml` tests the rules, scripts/check_dashboard.py the dashboard.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests
import yaml

from tests.support.gateway import GATEWAY_METRICS
from tests.support.live import Live
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
}


def names(query: str) -> set[str]:
    """Return the metrics that a query names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[\w+\]|(by|on) \([^)]*\)', " ", query)
    return set(re.findall(r"[A-Za-z_][\w:]*", bare)) - PROMQL_WORDS - {"e6"}


@pytest.mark.parametrize("query", QUERIES)
def test_every_queried_metric_exists(query: str) -> None:
    assert names(query)
    assert names(query) <= set(EXPOSED)


@pytest.mark.parametrize("query", QUERIES)
def test_every_queried_label_exists(query: str) -> None:
    """Prometheus adds instance and job; label_replace makes model_name."""
    labels = {label for group in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in group.split(", ")}
    labels |= {label for group in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)=", group)}
    available = set().union(*(EXPOSED[name] for name in names(query))) | {"instance", "job"}
    if any(":" in name for name in names(query)) or "label_replace" in query:
        available |= {"model_name", "ErrorType"}
    assert labels <= available


def test_every_type_of_error_in_a_rule_exists() -> None:
    code = (ROOT / "handler" / "errors.py").read_text(encoding="utf-8")
    types = {
        name for query in QUERIES for group in re.findall(r'ErrorType=~?"([^"]*)"', query) for name in group.split("|")
    }
    assert types
    for name in types:
        assert f"class {name}(RequestError)" in code


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_runbook_section(rule: dict[str, Any]) -> None:
    """And a summary, a severity and a rule test."""
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert f"\n### {rule['alert']}\n" in RUNBOOK
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    firing = {case["alertname"] for case in cases if case.get("exp_alerts")}
    assert rule["alert"] in firing


def test_the_job_of_the_rules_is_scraped() -> None:
    jobs = {job["job_name"] for job in CONFIG["scrape_configs"]}
    assert {job for query in QUERIES for job in re.findall(r'job="(\w+)"', query)} == jobs
    assert CONFIG["rule_files"] == ["rules.yml"]


def test_the_dashboard_has_no_overlapping_panels() -> None:
    """And each line has a legend, each panel a description."""
    positions = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    assert len(set(positions)) == len(positions)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(positions)
    assert all(target["legendFormat"] for target in TARGETS)
    assert all(panel["description"] for panel in DASHBOARD["panels"])


@pytest.mark.server
def test_a_live_server_exposes_the_queried_metrics(live: Live) -> None:
    """Every metric of rules and dashboard that TorchServe exposes on a machine without a GPU."""
    live.post("/predictions/tiny", '"word "')
    live.post("/predictions/tiny", '"' + "word " * 700 + '"')
    live.post("/predictions/tiny", "[null]")
    live.post("/explanations/tiny", '"Where is it?"')
    queried = {name for query in QUERIES for name in names(query) if ":" not in name} - {
        "up",
        "Requests5XX",
        *GATEWAY_METRICS,
    }
    # The utilization since the collector started, moments before, may be 0.0; it must be one number.
    queried.remove("CPUUtilization")
    metrics = requests.get(f"http://127.0.0.1:{live.ports['metrics_address']}/metrics", timeout=10).text
    (utilization,) = re.findall(r"(?m)^CPUUtilization\{.*\} ([\d.]+)$", metrics)
    assert 0 <= float(utilization) <= 100
    for name in sorted(queried):
        live.wait_for_metric(name, 0.001)
        assert live.metric(name) > 0 or name.endswith("_bucket"), name
