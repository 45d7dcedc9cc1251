"""The files that an operator edits: what they promise, and that their readers agree with them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes

from handler.confidence import DriftReference, Feature
from handler.config import ModelConfig
from handler.telemetry import BatchReport, reference_measurements
from scripts.cli.console import ROOT
from scripts.client.settings import KEYS, read_file


@pytest.fixture
def settings() -> dict[str, str]:
    """Return config.properties, whatever the environment says."""
    return read_file(ROOT / "config.properties")


def test_every_setting_is_one_that_torchserve_reads(settings: dict[str, str]) -> None:
    """A typing error in this file would change nothing, silently."""
    assert set(settings) <= KEYS


def test_only_this_machine_may_connect_and_only_with_a_key(settings: dict[str, str]) -> None:
    """Every address is on the loopback; keys are on and outlive the default hour."""
    addresses = [value for key, value in settings.items() if key.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in address for address in addresses)
    assert settings["disable_token_authorization"] == "false"
    assert float(settings["token_expiration_min"]) > 24 * 60


@pytest.mark.parametrize("url", ["http://a/b.mar", "https://a/b.mar", "file:///b.mar", "s3://a/b.mar", ""])
def test_no_url_may_be_loaded(settings: dict[str, str], url: str) -> None:
    """Only what lies in the model store."""
    assert not re.fullmatch(settings["allowed_urls"], url)


def test_files_that_the_settings_name_are_there(settings: dict[str, str]) -> None:
    """Relative to the repository, where a person types `torchserve --start`."""
    assert (ROOT / settings["metrics_config"]).is_file()
    (log_config,) = re.findall(r"-Dlog4j\.configurationFile=(\S+)", settings["vmargs"])
    assert (ROOT / log_config).is_file()


@pytest.mark.parametrize("name", ["config.properties", "model-config.yaml"])
def test_every_setting_has_its_reason(name: str) -> None:
    """In the line above, or above the settings it shares it with."""
    reason = False
    for line in (ROOT / name).read_text().splitlines():
        reason = line.lstrip().startswith("#") or (reason and bool(line)) or line == "handler:"
        assert reason or not line, f"{name}: no reason above {line}"


def test_the_model_settings_are_valid() -> None:
    """By the rules of the code that reads them."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    assert config.frontend.minWorkers == 1
    assert config.handler.precision == "fp32"


def test_the_commented_model_settings_exist_too(tmp_path: Path) -> None:
    """Taking away the # of an example gives a valid file."""
    text = (ROOT / "model-config.yaml").read_text()
    bare = re.sub(r"^  # (\w+: \S+)$", r"  \1", text, flags=re.MULTILINE)
    assert bare.count("\n") == text.count("\n")
    assert bare != text
    path = tmp_path / "model-config.yaml"
    path.write_text(bare)
    assert ModelConfig.read(path).handler.threads


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # TorchServe leaves the file open
def test_every_measurement_of_the_handler_is_declared() -> None:
    """With its kind and its number of labels: TorchServe drops the others without a word."""
    cache = MetricsCacheYamlImpl(str(ROOT / "metrics.yaml"))
    cache.initialize_cache()
    report = BatchReport(1, 1, 1, 0.1, 0.1, 0.1, 1, Counter({"a, b|\n": 1}), 0.5, Counter(InvalidInput=1), "0", 0.1)
    own = {"bert_labels_total": ["Label"], "bert_refused_requests_total": ["ErrorType"]}
    own |= {name: ["DeviceId"] for name in ("bert_device_seconds_total", "bert_device_memory_bytes")}
    bins = ["ModelVersion", "Feature", "Bin"]
    own |= {"bert_observed_total": bins, "bert_reference_share": bins, "bert_confidence_total": ["ModelVersion"]}
    own |= {name: ["ModelVersion"] for name in ("bert_reference_examples", "bert_reference_accuracy")}
    reference = DriftReference({"label": Feature({"a": 1.0}), "score": Feature({"more": 1.0})}, 1, 1.0)
    report.observe([("label", "a"), ("score", 0.5)], reference)
    report.n_judged = report.n_abstained = 1
    measurements = [*report.measurements("1.0"), *reference_measurements(reference, "1.0")]
    assert {*own, "bert_judged_answers_total", "bert_abstained_answers_total"} <= {item.name for item in measurements}
    for measured in measurements:
        metric = cache.get_metric(measured.name, MetricTypes(measured.kind))
        assert metric.dimension_names == ["ModelName", *own.get(measured.name, [])]
        assert measured.name != "bert_labels_total" or measured.labels == ("a_ b__",)


def test_no_list_of_dimensions_is_shared() -> None:
    """TorchServe adds Hostname to each list in place."""
    sections = yaml.safe_load((ROOT / "metrics.yaml").read_text())
    lists = [
        metric["dimensions"]
        for section in ("ts_metrics", "model_metrics")
        for metrics in sections[section].values()
        for metric in metrics
    ]
    assert len({id(names) for names in lists}) == len(lists)


@pytest.fixture
def log4j() -> ElementTree.Element:
    """Return log4j2.xml."""
    return ElementTree.parse(ROOT / "log4j2.xml").getroot()  # noqa: S314 - our own file


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("handler.errors.ConfigError: unknown setting handler.topk", True),
        ("Failed to load model intents, exception unknown setting handler.topk", True),
        ("ValueError: could not convert string to float: 'my secret'", True),
        ("MemoryError", True),
        ("my secret", False),
        ("    text = 'my secret'", False),
        ("model_name: intents, batchSize: 32", False),
    ],
)
def test_only_reasons_of_failures_pass_from_a_worker(log4j: ElementTree.Element, line: str, passes: bool) -> None:
    """Of what a worker prints on standard output."""
    (pattern,) = [
        filters.attrib["regex"]
        for logger in log4j.iter("Logger")
        if logger.attrib["name"] == "MODEL_LOG"
        for filters in logger.iter("RegexFilter")
    ]
    assert bool(re.fullmatch(pattern, line)) == passes


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        ("handler.errors.ModelMismatch: model/config.json differs", None),
        ("handler.errors.ConfigError: unknown setting", None),
        ("ModuleNotFoundError: No module named 'x'", None),
        ("ValueError: could not convert string to float: 'my secret'", "ValueError"),
        ("a.b.SomeException: my secret", "a.b.SomeException"),
        ("Retry worker: 9000 in 1 seconds.", None),
    ],
)
def test_messages_that_may_quote_a_user_are_cut(log4j: ElementTree.Element, line: str, logged: str | None) -> None:
    """Except for the types that tell why a model did not load."""
    properties = {entry.attrib["name"]: entry.text or "" for entry in log4j.iter("Property")}
    (pattern,) = re.findall(r"%replace\{%m\}\{(.*)\}\{\$3\}", properties["message"])
    pattern = pattern.replace("${safeTypes}", properties["safeTypes"])
    assert re.sub(pattern, r"\3", line) == (line if logged is None else logged)
