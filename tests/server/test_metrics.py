"""Metrics of the standalone server: the names of metrics.yaml, in Prometheus' text format."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from handler.errors import ConfigError
from handler.telemetry import BatchReport
from server.metrics import MetricsRegistry, record_machine
from tests.support.samples import ROOT


def test_every_declared_metric_is_exposed_and_no_other() -> None:
    """What metrics.yaml lists has a type line; what it does not list is dropped."""
    metrics = MetricsRegistry(ROOT / "metrics.yaml")
    metrics.record("nobody_declared_this", 1)
    text = metrics.exposition()
    declared = yaml.safe_load((ROOT / "metrics.yaml").read_text())
    for section in ("ts_metrics", "model_metrics"):
        for kind, entries in declared[section].items():
            for entry in entries:
                assert f"# TYPE {entry['name']} {kind}\n" in text
    assert "nobody_declared_this" not in text


def test_a_report_becomes_counters_and_histograms() -> None:
    """Counters add, histograms have buckets, a label is escaped, the host is a label of all."""
    metrics = MetricsRegistry(ROOT / "metrics.yaml")
    report = BatchReport(n_texts=3, n_tokens=20, inference_s=0.02, tokenize_s=0.001)
    report.labels.update({"joy": 2})
    for _ in range(2):
        metrics.record_all('a"b', report.measurements("1.0"))
    host = metrics.hostname
    lines = metrics.exposition().splitlines()
    assert f'bert_texts_total{{ModelName="a\\"b",Hostname="{host}",}} 6.0' in lines
    assert f'bert_labels_total{{ModelName="a\\"b",Label="joy",Hostname="{host}",}} 4.0' in lines
    assert f'bert_inference_seconds_bucket{{ModelName="a\\"b",Hostname="{host}",le="0.01",}} 0.0' in lines
    assert f'bert_inference_seconds_bucket{{ModelName="a\\"b",Hostname="{host}",le="0.025",}} 2.0' in lines
    assert f'bert_inference_seconds_count{{ModelName="a\\"b",Hostname="{host}",}} 2.0' in lines


def test_the_machine_is_measured_when_it_is_read() -> None:
    """The gauges that the alerts of memory and disk read."""
    metrics = MetricsRegistry(ROOT / "metrics.yaml")
    metrics.collect_with(lambda: record_machine(metrics))
    text = metrics.exposition()
    for name in ("MemoryUtilization", "DiskUtilization", "CPUUtilization"):
        assert f'{name}{{Level="Host"' in text


def test_a_file_that_declares_nothing_is_refused(tmp_path: Path) -> None:
    """With its name."""
    (tmp_path / "metrics.yaml").write_text("- no\n- mapping\n")
    with pytest.raises(ConfigError, match=r"metrics\.yaml declares no metrics"):
        MetricsRegistry(tmp_path / "metrics.yaml")
