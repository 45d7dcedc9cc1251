"""The benchmark's flops, statistics and accounting, its report of canned results, and one short run of the engine."""

from __future__ import annotations

import doctest
import importlib
import json
import sys
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, BertConfig

from handler.engine import int8
from scripts import bench
from scripts.benchmark import engine, machine, peers, report, roofline, tables, texts
from scripts.benchmark.accounting import OUTCOMES, ExpectedScores
from scripts.benchmark.flops import EncoderShape, padded_tokens
from scripts.benchmark.measure import interleave, peak_memory
from scripts.benchmark.models import benchmark_model
from scripts.benchmark.request_time import RequestTime
from scripts.benchmark.statistics import Timings
from scripts.cli.console import ScriptError
from scripts.client.ports import PORTS, with_free_ports
from tests.support.samples import ROOT

CPU = torch.device("cpu")
BASE = EncoderShape(12, 768, 3072)
PLAIN = {"gated": False, "shared": 1}
ABOUT: dict[str, Any] = {
    "date": "2026-11-24 12:00 UTC",
    "command": "scripts/bench.py",
    "commit": "abc1234",
    "device": "a processor",
    "cores": 2,
    "threads": 2,
    "memory_gb": 8.0,
    "system": "Linux",
    "python": "3.11",
    "wait_policy": "PASSIVE",
    "load": [0.1, 0.2, 0.3],
    "versions": {"torch": "2.13.0", "litserve": None},
    "skipped": ["x is skipped: y"],
}
TIMES = {"seconds": [1.0, 1.0], "median": 1.0, "spread": [1.0, 1.0]}
COUNTS = {"sent": 9, "right": 7, "refused": 1, "failed": 1, "wrong": 0}


def results() -> dict[str, Any]:
    """Return results of every part as the script writes them."""
    work = {"model": "m", "mix": "short", "precision": "fp32", "texts": 4, "tokens": 40, "mean_length": 10.0}
    work |= {"width": 40, "packed": True, "times": 2}
    trial = {"rate": 50.0, "p50_ms": 5.0, "p90_ms": 7.0, "p99_ms": 9.0, "valid": True}
    measured = {"times": TIMES, "setting": "8 texts", "texts_per_s": 4.0, "ratio": 0.5, "ratio_spread": [0.4, 0.6]}
    point = {"at": 1000, "tokens_per_s": 5e3, "ms": 3.0, "us_per_token": 200.0, "memory_mb": 12.0}
    http = {"model": "m", "server": "standalone", "mix": "short", "precision": "fp32", "ledger": COUNTS}
    peer = {"name": "LitServe", "ours": False, "connections": 64, "texts_per_s": 9.0, "p50_ms": 1, "p99_ms": 2}
    peer |= {"of_engine": 0.1, "memory_mb": 1234.5, "unanswered": 0, "ledger": COUNTS}
    spent = RequestTime(connections=2, seconds=1.0)
    spent.counters |= {"requests": 4, "batches": 2, "queue_us": 4e5, "tokenize_s": 0.02, "inference_s": 0.1}
    spent.cpu_s |= {"client": 0.1, "frontend": 0.0, "worker": 0.2}
    ours = peer | {"name": "standalone", "ours": True, "request_time": spent.row()}
    overload = {"name": "standalone", "rate": 500.0, "times": 5.0, "goodput": 95.0, "of_capacity": 0.95}
    overload |= {"right_p99_ms": 900.0, "refused_p99_ms": None, "client_late_p99_ms": 1.0, "ledger": COUNTS}
    return {
        "about": ABOUT,
        "models": [{"name": "m", "random": True, "layers": 12, "width": 768, "inner": 3072}],
        "engine": [engine.row_of(work, 8 * 10**9, 10**10, Timings((2.0, 2.0)), Timings((1.0, 2.0)))],
        "peers": [
            {
                "model": "m",
                "mix": "short",
                "texts": 4,
                "tokens": 40,
                "padding": {"fixed": 12.8, "longest": 2.0, "sorted": 1.5},
                "contenders": [
                    {"name": "packed fp32", "ours": True, **measured, "ratio": 1.0},
                    {"name": "pipeline, padded to the longest", "ours": False, **measured},
                ],
            }
        ],
        "accuracy": [
            {
                "model": "m",
                "texts": 100,
                "source": "test.csv",
                "contenders": [{"name": "packed bf16", "ours": True, "agreement": 0.99, "flips": 1, "accuracy": 0.9}],
            }
        ],
        "offline": [{**http, "texts_per_request": 32, "texts_per_s": 90.0, "of_engine": 0.9}],
        "server": [
            {
                **http,
                "bound_ms": 100.0,
                "found": 50.0,
                "over_offline": 0.55,
                "alone_ms": 9.0,
                "engine_alone_ms": 6.0,
                "trials": [trial, trial | {"rate": 80.0, "p99_ms": 200.0, "valid": False}],
            }
        ],
        "http_peers": [
            {
                "model": "m",
                "mix": "short",
                "precision": "fp32",
                "client": "wrk 4.1.0",
                "engine_texts_per_s": 90.0,
                "engine_alone_ms": 6.0,
                "servers": [peer, ours],
                "overload": [overload],
            }
        ],
        "scaling": [
            {"model": "m", "precision": "fp32", "kind": kind, "points": [point, point | {"at": 3000}]}
            for kind in ("work", "batch", "budget", "threads", "workers")
        ],
    }


def test_work_of_a_bert_base() -> None:
    """F(L) = 2n(4h^2 + 2hf)L + 4nhL^2, about 170 MFLOP a token."""
    assert BASE.flops([1]) == 2 * 12 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 12 * 768
    assert BASE.flops([10, 20]) == BASE.flops([10]) + BASE.flops([20])
    assert BASE.flops([512]) > 512 * BASE.flops([1])  # attention grows with the square
    assert 12 * BASE.layer_flops(7) == BASE.flops([7]) - 4 * 12 * 768 * 49
    assert EncoderShape.of(BertConfig()) == BASE


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "nomic_bert", "gte", "eurobert"])
def test_the_shape_of_a_family_is_that_of_its_layers(family: str) -> None:
    """The products of the roofline hold as many weights as the matrices of a layer of transformers."""
    sizes = {"num_hidden_layers": 1, "n_layers": 1, "num_attention_heads": 4, "n_heads": 4, "vocab_size": 10}
    sizes |= {"hidden_size": 64, "dim": 64, "intermediate_size": 96, "hidden_dim": 96, "pad_token_id": 0}
    more = {"num_key_value_heads": 2} if family == "eurobert" else {}
    make: Any = AutoConfig.for_model
    config = make(family, **sizes, **more)
    make_model: Any = AutoModel.from_config
    with torch.device("meta"):
        model = make_model(config)
    matrices = [module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)]
    pooler = [module.weight.numel() for name, module in model.named_modules() if name == "pooler.dense"]
    assert EncoderShape.of(config).weights == sum(matrices) - sum(pooler)


def test_padding_is_counted() -> None:
    """Packed, sorted, to the longest, to a fixed length: ever more."""
    lengths = [5, 40, 7, 90, 12, 33, 8, 64]
    counted = [padded_tokens(lengths, batch=4, in_order=True), padded_tokens(lengths, batch=4)]
    assert sum(lengths) < counted[0] < counted[1] < padded_tokens(lengths, to=128) == 8 * 128
    assert counted == [4 * 12 + 4 * 90, 4 * 90 + 4 * 64]


def test_runs_are_interleaved() -> None:
    """Each round begins with another run, and as many times are kept of each."""
    seen: list[str] = []
    timings = interleave({name: lambda name=name: seen.append(name) for name in "ab"}, CPU, 0, min_rounds=3)  # type: ignore[misc]
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab"
    assert [len(timings[name].seconds) for name in "ab"] == [3, 3]


def test_one_slow_run_does_not_end_the_search_for_a_size() -> None:
    """A peer must get its best size on a busy machine as well, or we would look better than we are."""
    disturbed = [True]

    def label(_: Any, size: int) -> Any:
        slow = 0.02 if size == 2 and disturbed else 0.0
        disturbed.clear() if slow else None
        time.sleep(0.016 / size + slow)
        return np.zeros(1, np.intp)

    mix = texts.Mix("short", tuple("abcdefgh"), (3,) * 8)
    assert peers.best_setting(peers.Peer("peer", label), mix, CPU) == peers.BatchSetting(8)


def test_memory_is_seen() -> None:
    """A block that was there for a moment counts."""
    with peak_memory(CPU) as used:
        block = torch.ones(16 * 2**20)
        interleave({"read": block.sum}, CPU, 0.05, min_rounds=2)
    assert used.peak > 32 * 2**20


def test_a_fraction_is_that_of_each_round() -> None:
    """A slow round harms engine and roofline alike."""
    work = {"times": 1, "texts": 1, "tokens": 1}
    row = engine.row_of(work, 50, 100, Timings((1.0, 9.0, 1.0)), Timings((1.0, 9.0, 1.0)))
    assert row["fraction"] == 0.5
    assert row["fraction_spread"] == [0.5, 0.5]
    assert "fraction" not in engine.row_of(work, 50, 100, Timings((1.0,)), None)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_roofline_runs_or_is_none(precision: str) -> None:
    """What the machine lacks is no error."""
    run = roofline.roofline(EncoderShape(2, 64, 128), 16, precision, CPU)
    assert run is not None or precision != "fp32"
    if run is not None:
        run()
    assert roofline.roofline(EncoderShape(2, 64, 128), 16, "int3", CPU) is None


def test_texts_are_all_different_and_of_their_length() -> None:
    """Equal texts would be computed once; the mean length is what the name says."""

    def count(batch: Any) -> list[int]:
        return [len(text.split()) + 2 for text in batch]

    for mix in texts.mixes(None, count):
        assert len(set(mix.texts)) == len(mix.texts)
        assert mix.tokens == sum(mix.lengths)
        assert mix == texts.mixes(None, count, [mix.name])[0]  # the same every time
        if mix.name == "long":
            assert 0.8 * texts.LONG < mix.tokens / len(mix.texts) < 1.2 * texts.LONG


def test_texts_of_a_file(tmp_path: Path) -> None:
    """--lengths-from takes the column text, and says what it lacks."""
    file = tmp_path / "mine.csv"
    file.write_text("text\n" + "".join(f"word {index}\n" for index in range(40)))
    (mix,) = texts.mixes(file, lambda batch: [3] * len(batch))
    assert (mix.name, len(mix.texts)) == ("mine", texts.SHORT_TEXTS)
    file.write_text("words\nword\n")
    with pytest.raises(ScriptError, match="no column text"):
        texts.mixes(file, lambda batch: [3] * len(batch))
    file.write_text("text\nword\n")
    with pytest.raises(ScriptError, match="1 different texts"):
        texts.mixes(file, lambda batch: [3] * len(batch))


@pytest.mark.parametrize(
    ("status", "answers", "counted"),
    [
        (200, [[{"label": "a", "score": 0.9}, {"label": "b", "score": 0.1}]], "right"),
        (200, [[{"label": "b", "score": 0.1}, {"label": "a", "score": 0.9}]], "right"),
        (200, [[{"label": "b", "score": 0.9}, {"label": "a", "score": 0.1}]], "wrong"),
        (200, [[{"label": "a", "score": 0.9}]], "wrong"),
        (200, [{"error": {"code": 422}}], "wrong"),
        (200, [], "failed"),
        (200, None, "failed"),
        (503, None, "refused"),
        (500, None, "failed"),
        (0, None, "failed"),
    ],
)
def test_every_text_is_accounted_for(status: int, answers: Any, counted: str) -> None:
    """Every text is counted once, as what became of it."""
    expected = ExpectedScores([{"a": 0.9, "b": 0.1}], 0.01)
    assert expected.outcomes([0], status, answers) == {counted: 1}
    assert counted in OUTCOMES


def test_a_report_of_every_part() -> None:
    """Every part has its section, and says where, with what and what was left out."""
    rendered = report.render(results(), ["roofline.png", "latency.png"])
    for line in (
        *(
            "commit abc1234",
            "`scripts/bench.py`",
            "a processor",
            "torch 2.13.0",
            "m (12 layers of 768, random weights)",
        ),
        "| m | short (10) | fp32 | 4 | 40 | 4 | 6.67 | 60% [50%, 70%] |",
        "| m | short | **packed fp32** | 8 texts | 4 | 1.00 [0.40, 0.60] |",
        "| m | short | 1.00 | 1.50 | 2.00 | 12.80 |",
        "| m | 100 | **packed bf16** | 99.00% | 1 | 90.00% |",
        "| m | standalone | short | fp32 | 32 | 90 | 90% | 9 = 7 + 1 + 1, wrong 0 |",
        "| m | standalone | fp32 | 80/s | 5.0 ms | 7.0 ms | 200.0 ms | no |",
        "| m fp32 | LitServe | 64 | 9 | 10% | 1.00 ms | 2.0 ms | 1,234 MB | 0 | 9 = 7 + 1 + 1, wrong 0 |",
        "* m fp32: engine alone 6.00 ms for one text, 90 texts/s in batches of 32; client: wrk 4.1.0",
        "| 64 | 500.00 ms | 100.00 ms | 10.00 ms | 50.00 ms | 340.00 ms | 2.0 | 25.00 ms, 0.00 ms, 50.00 ms |",
        "| m fp32 | **standalone** | 500/s (5.0 times the rate at 64) | 95/s (95%) | 900.0 ms | - | 1.0 ms |",
        "| 1,000 | 5,000 | 3.0 ms | 200.0 | 12 MB |",
        *("![Engine against the roofline](roofline.png)", "## Left out", "* x is skipped: y"),
    ):
        assert line in rendered
    assert "litserve None" not in rendered
    assert "peers.png" not in rendered


def test_a_report_of_a_busy_machine_says_so() -> None:
    """Quartiles do not show that somebody else was there all the time."""
    assert "Others used this machine" not in report.render({"about": ABOUT})
    assert "Others used this machine" in report.render({"about": ABOUT | {"load": [6.0, 5.0, 4.0]}})


def test_a_report_of_nothing_has_no_empty_sections() -> None:
    """What was not measured is not there."""
    rendered = report.render({"about": ABOUT | {"skipped": []}})
    assert "## " not in rendered


def test_an_unknown_part_is_refused() -> None:
    """--only names parts."""
    assert bench.parts("engine, peers") == ("engine", "peers")
    with pytest.raises(ArgumentTypeError, match="speed is no part"):
        bench.parts("speed")


def test_results_of_another_program_are_refused(tmp_path: Path) -> None:
    """--render reads what this script wrote."""
    path = tmp_path / "results.json"
    for content in ("{nope", "[]", "{}", "\ufeff"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ScriptError, match=r"results\.json holds no results"):
            tables.read_results(path, "about")
    path.write_text('{"about": {}}', encoding="utf-8")
    assert tables.read_results(path, "about") == {"about": {}}


def test_who_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install, and how."""
    libraries = {"onnxruntime", "openvino", "ctranslate2", "fastembed", "torchao"}
    assert set(machine.PEERS) == libraries | {"litserve", "loadgen", "plots"}
    files = ("bench.txt", "fastembed.txt", "train.txt")  # training draws as well
    requirements = "".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in files)
    assert all(f"\n{package}==" in requirements for packages in machine.PEERS.values() for package in packages)
    monkeypatch.setattr(machine, "version", {"onnx": "1"}.get)
    assert machine.missing("onnxruntime") == f"onnxruntime is skipped: onnxruntime not installed; {machine.HOW}"
    assert "requirements/bench.txt" in machine.missing("loadgen")
    assert machine.missing("fastembed").endswith("pip install --no-deps -r requirements/fastembed.txt")
    monkeypatch.setattr(machine, "version", lambda _: "1")
    assert machine.missing("openvino") == ""


def test_a_server_of_our_own_has_ports_of_its_own() -> None:
    """No port of the project's settings is left."""
    settings = (ROOT / "config.properties").read_text(encoding="utf-8")
    both = (settings, with_free_ports(settings)[0])
    before, after = (dict(line.split("=", 1) for line in text.splitlines() if "=" in line) for text in both)
    assert {key for key in before if before[key] != after[key]} == set(PORTS)


@pytest.mark.parametrize("name", ["random:x", "random:2x63", "nowhere"])
def test_a_model_that_is_none_is_refused(name: str) -> None:
    """In a line that says what there could be."""
    with ExitStack() as stack, pytest.raises(ScriptError, match=r"random:.*LAYERSxWIDTH"):
        benchmark_model(name, stack)


def test_the_engine_part_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model through the whole script: results, report, and where they were made."""
    command = ["bench.py", "--only", "engine,scaling", "--padded", "--threads", "1", "--models", "random:1x64"]
    command += ["--seconds", "0", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(machine, "version", lambda _: None)  # no pictures, whatever is installed
    threads = torch.get_num_threads()
    try:
        assert bench.main() == 0
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / "results.json").read_text())
    assert {row["mix"] for row in written["engine"]} == {"short", "long", "mixed"}
    assert {row["precision"] for row in written["engine"]} == set(written["about"]["precisions"])
    for row in written["engine"]:
        assert len(row["engine"]["seconds"]) >= 5
        if row["precision"] != "int8" or int8.onednn_is_exact():  # else there is no roofline by oneDNN
            assert row["fraction"] > 0
        assert row["packed"]
        assert ("to_padded" in row) is (row["precision"] != "int8")
    assert {row["kind"] for row in written["scaling"]} == {"work", "batch", "budget"}
    assert all(point["tokens_per_s"] > 0 for row in written["scaling"] for point in row["points"])
    assert written["models"] == [
        {"name": "random-1x64", "random": True, "layers": 1, "width": 64, "inner": 256} | PLAIN
    ]
    assert "| random-1x64 | short" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "flops",
        "statistics",
        "accounting",
        "tables",
        "tuning",
        "scaling",
        "peers",
        "accuracy",
        "http",
        "load",
        "loadgen",
        "texts",
        "machine",
    ],
)
def test_examples_in_docstrings(name: str) -> None:
    """They run, without any of the peers."""
    outcome = doctest.testmod(importlib.import_module(f"scripts.benchmark.{name}"))
    assert outcome.failed == 0
