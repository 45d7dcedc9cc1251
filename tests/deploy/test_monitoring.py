"""Check rules and dashboard against the metrics that TorchServe exposes (metrics.yaml); CI has no promtool.

`promtool test rules deploy/prometheus/rules_test.yml` tests the rules, scripts/check_dashboard.py the dashboard.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.support.monitoring import ALERTS, CONFIG, DASHBOARD, EXPOSED, PROMETHEUS, QUERIES, RUNBOOK, TARGETS, names
from tests.support.samples import ROOT


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
        available |= {"model_name", "ErrorType", "ModelName", "ModelVersion", "Feature"}
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
