"""Report of a benchmark as Markdown: machine and versions first, then one section for each part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark import machine, tables
from scripts.cli.console import counted, say

Row = dict[str, Any]


def render(results: Row, pictures: Sequence[str] = ()) -> str:
    """Return the report; `pictures` are names of PNG files beside it."""
    drawn = {name.removesuffix(".png"): name for name in pictures}
    parts = [
        about(results["about"], results.get("models", [])),
        section("Engine against the roofline", ENGINE, tables.engine(results.get("engine", [])), drawn.get("roofline")),
        section("Against others, in one process", PEERS, tables.peers(results.get("peers", [])), drawn.get("peers")),
        section("What padding costs", PADDING, tables.padding(results.get("peers", [])), drawn.get("padding")),
        section("Accuracy of fewer bits", ACCURACY, tables.accuracy(results.get("accuracy", []))),
        section("Over HTTP: all at once (MLPerf Offline)", OFFLINE, tables.offline(results.get("offline", []))),
        section(
            "Over HTTP: as requests come (MLPerf Server)",
            SERVER,
            tables.server(results.get("server", [])),
            drawn.get("latency"),
        ),
        section("Servers side by side", HTTP, tables.http_peers(results.get("http_peers", []))),
        section("Where the time of a request goes", TIME, tables.request_time(results.get("http_peers", []))),
        section("Scaling", SCALING, tables.scaling(results.get("scaling", [])), drawn.get("scaling")),
        section("Against another build", AGAINST, tables.against(results.get("against", []))),
        section("Training", TRAINING, tables.training(results.get("training", []))),
        left_out(results["about"].get("skipped", [])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


ENGINE = """Tokens to values, without tokenising and HTTP. The roofline is the model's own matrix products at that
precision, alone, measured in the same rounds; the fraction is the median of those of the rounds, its spread their
quartiles. Work is counted as 2n(4h² + 2hf)L + 4nhL² operations a sequence (3hf with a gate).
"To padded" is how many times faster it is than the modules of `transformers` on padded batches (`--padded`)."""
PEERS = """From texts to scores, the same texts and weights, all peers in every round. Each peer runs at
the best of a few sizes of micro-batch, found before. The ratio is to packed fp32, the median of those of the rounds."""
PADDING = """Tokens that are computed for each real token: 1.00 is no padding."""
ACCURACY = """Labels that stay as `transformers` gives them in fp32, on texts that no calibration has seen."""
OFFLINE = """LoadGen hands over all texts at once. Every answer is compared with the one computed beforehand; "of the
engine" compares with the engine alone on the same texts just before."""
SERVER = """LoadGen sends one text a request at Poisson-distributed times; latency counts from the scheduled time. The
rate found is the highest tried at which 99 % of the answers came within the bound."""
HTTP = """One text a request from so many connections, each of which sends the next when the answer is there; the same
archive on each server, all of them running, loaded in turn by one client. Figures are medians of three rounds. Memory
is that of all processes of a server, Java included, with shared pages counted once. Overload: five times the rate at 64
connections at Poisson-distributed times, whatever the server answers; goodput counts right answers within the run."""
TIME = """Of the loads above. A request takes the connections over the rate, in the mean; the server's own counters say
how long it waited in the queue, and how long its batch was tokenized and computed. The rest is the client, the sockets,
TorchServe's frontend and its talk with the worker. CPU is that of all processes of a server over its requests."""
AGAINST = """Another commit's build beside this one, alternating in every round. *engine*: tokens to values; *answers*:
texts to answers in one process, without HTTP; *start*: from a new process to its first answer, then its anonymous
memory. The ratio says how many times faster this build is, the median of those of the rounds."""
TRAINING = """scripts/train.py of both builds in processes of their own, which alternate after each epoch on the
example intents; the first epoch does not count. *steps*: the epoch until its last step; *epoch*: with validation and a
checkpoint. The ratio says how many times faster this build is, the median of those of the rounds. *Peak*: the most
memory of the process."""
SCALING = """One parameter is varied, the others keep their defaults."""


def about(facts: Row, models: Sequence[Row]) -> str:
    """Return machine, versions and command."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    shapes = ", ".join(
        f"{model['name']} ({model['layers']} layers of {model['width']}{', random weights' if model['random'] else ''})"
        for model in models
    )
    load = ", ".join(str(value) for value in facts["load"])
    after = ", ".join(str(value) for value in facts.get("load_after", [])) or "?"
    return "\n".join(
        [
            "# Measured speed",
            "",
            f"* **When**: {facts['date']}, commit {facts['commit']}",
            f"* **Command**: `{facts['command']}`",
            f"* **Machine**: {facts['device']}; {facts['cores']} cores, {facts['memory_gb']} GB; {facts['system']}",
            f"* **Load before and after** (1, 5, 15 minutes): {load}; {after}",
            f"* **Threads**: {facts['threads']}, `OMP_WAIT_POLICY={facts['wait_policy']}`",
            f"* **Versions**: Python {facts['python']}, {versions}",
            f"* **Models**: {shapes or 'none'}",
            "",
            "Numbers are medians; in brackets the quartiles. Every single time is in results.json.",
            *disturbed(facts),
        ]
    )


def disturbed(facts: Row) -> list[str]:
    """Return a warning where the machine was busy before the run."""
    if facts["load"][0] <= facts["cores"] / 2:
        return []
    warning = (
        f"**Others used this machine** (load {facts['load'][0]} on {facts['cores']} cores before the run began): do "
        "not compare the peers by these numbers. Engines wait for their threads in different ways, and which one is "
        "slowed most differs from run to run by more than the quartiles show."
    )
    return ["", warning]


def section(title: str, text: str, table: str, picture: str | None = None) -> str:
    """Return one section; an empty string where nothing was measured."""
    if not table:
        return ""
    image = f"\n\n![{title}]({picture})" if picture else ""
    return f"## {title}\n\n{text}{image}\n\n{table}"


def left_out(reasons: Sequence[str]) -> str:
    """Return what was not measured and why."""
    return "## Left out\n\n" + "\n".join(f"* {reason}" for reason in reasons) if reasons else ""


def save(results: Row, folder: Path) -> None:
    """Write results.json; a run that is interrupted keeps its results so far."""
    partial = folder / "results.partial"
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "results.json")


def write(results: Row, folder: Path) -> None:
    """Write report.md and, where matplotlib is installed, the figures."""
    missing = machine.missing("plots")
    figures: list[str] = []
    if missing:
        say(missing)
    else:
        from scripts.benchmark import plots

        figures = plots.draw(results, folder)
    (folder / "report.md").write_text(render(results, figures), encoding="utf-8")
    say(f"wrote {folder}/report.md, results.json and {counted(len(figures), 'picture')}")
