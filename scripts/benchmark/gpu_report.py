"""Report of a benchmark on a GPU as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.tables import number, table

Row = dict[str, Any]

SPEED = """From tokens to scores. Engine, `transformers` and matrix products are interleaved; figures are medians,
*middle half* their quartiles. *own products*: the matrix products of one layer at this precision, alone, with as many
rows as one forward pass of the engine has tokens. *peak*: a product of 8192 x 8192 x 8192 at this precision, the same
way. Work is counted as 2n(4h² + 2hf)L + 4nhL² operations a sequence; padding is no work, and of the engine's last layer
only what it computes counts: keys and values of all tokens, the rest of one. The batches of `transformers` are on the
GPU before the measurement, each of the best of several sizes; the engine builds its own within it."""
LATENCY = """Milliseconds from tokens to scores, of short texts (mean 15 tokens), one call after the other."""
BUDGETS = """Thousand tokens a second, on lengths like SQuAD, by `max_batch_tokens`; in bold what the engine chose."""
WORKERS = """Texts a second from the bytes of requests to those of answers, on lengths like SQuAD: all that a worker
does except HTTP, several workers on one GPU."""
AGREEMENT = """Scores against `transformers` in fp32, one text at a time. *batch*: the largest difference between a
text's score alone and in the batch of all."""
KERNELS = """Parts of the time that kernels took, on lengths like SQuAD; *busy*: their time over that of the clock."""


def render(results: Row) -> str:
    """Return the report."""
    models = results["models"]
    parts = [
        about(results["about"], models),
        section("Speed", SPEED, "\n\n".join(filter(None, map(speed, models)))),
        section("Latency", LATENCY, latency(models)),
        section("Token budget", BUDGETS, budgets(models)),
        section("Workers", WORKERS, workers(results.get("workers", []))),
        section("Agreement", AGREEMENT, agreement(models)),
        section("Kernels", KERNELS, "\n\n".join(filter(None, (kernels(models), largest(models))))),
        section("Left out", "", "\n".join(f"* {reason}" for reason in results["left_out"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about(facts: Row, models: Sequence[Row]) -> str:
    """Return machine, versions and the configuration of the engines."""
    engines = [
        f"{model['model']} {name}: {engine['max_batch_tokens']} tokens a pass, "
        f"{engine['layer']}, {engine['graphs']} graphs"
        for model in models
        for name, engine in model.get("engines", {}).items()
    ]
    lines = ["# Measured on a GPU", "", *(f"* **{name}**: {fact}" for name, fact in facts.items())]
    return "\n".join([*lines, *(f"* **Engine** {engine}" for engine in engines)])


def section(title: str, text: str, body: str) -> str:
    """Return one section; an empty string where nothing was measured."""
    return "\n\n".join(filter(None, (f"## {title}", text, body))) if body else ""


def speed(model: Row) -> str:
    """Return the speed of one model on every distribution of lengths."""
    rows = []
    for mix in model["speed"]:
        for row in sorted(mix["rows"], key=lambda entry: -entry["texts_per_s"]):
            ours = row["name"].startswith("engine")
            rows.append(
                [
                    *(
                        f"{mix['mix']} ({mix['tokens'] / mix['texts']:.0f})",
                        f"**{row['name']}**" if ours else row["name"],
                    ),
                    number(row["texts_per_s"]),
                    " to ".join(number(mix["texts"] / seconds) for seconds in reversed(row["times"]["spread"])),
                    *(number(row["tokens_per_s"]), number(row["tflops"])),
                    *(part(row["of_own_products"]), part(row["of_peak"])),
                ]
            )
    header = [
        "lengths",
        "implementation",
        "texts/s",
        "middle half",
        "tokens/s",
        "TFLOP/s",
        "of own products",
        "of peak",
    ]
    roofs = [
        f"{name} {number(tflops)} TFLOP/s" for name, tflops in (model["speed"] or [{"roofs": {}}])[0]["roofs"].items()
    ]
    return f"### {model['model']}\n\n{', '.join(roofs)}\n\n{table(header, rows)}" if rows else ""


def part(value: float | None) -> str:
    """Format a fraction as a percentage.

    >>> part(0.7), part(None)
    ('70%', '-')
    """
    return "-" if value is None else f"{value:.0%}"


def latency(models: Sequence[Row]) -> str:
    """Return the latency of a few texts."""
    rows = [
        [model["model"], row["name"], row["texts"], f"{row['p50']:.2f}", f"{row['p99']:.2f}"]
        for model in models
        for row in model["latency"]
    ]
    return table(["model", "implementation", "texts", "p50", "p99"], rows)


def budgets(models: Sequence[Row]) -> str:
    """Return the speed of every token budget, one line for each engine."""
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for model in models:
        for row in model.get("budgets", []):
            cell = number(row["tokens_per_s"] / 1e3)
            cells = lines.setdefault((model["model"], row["name"]), {})
            cells[row["budget"]] = f"**{cell}**" if row["chosen"] else cell
    sizes = list(next(iter(lines.values()), {}))
    rows = [[*names, *(cells.get(size, "-") for size in sizes)] for names, cells in lines.items()]
    return table(["model", "precision", *map(str, sizes)], rows)


def workers(rows: Sequence[Row]) -> str:
    """Return the throughput of several workers."""
    cells = [[row["workers"], row["requests"], row["texts_a_request"], number(row["texts_per_s"])] for row in rows]
    return table(["workers", "requests a batch", "texts a request", "texts/s"], cells)


def agreement(models: Sequence[Row]) -> str:
    """Return the differences of scores from fp32, and between a batch and a text alone."""
    rows = [
        [
            *(model["model"], row["name"], row["texts"], f"{row['same_label']:.2%}"),
            *(f"{row[key]:.4f}" for key in ("mean_difference", "largest_difference", "composition")),
        ]
        for model in models
        for row in model.get("agreement", [])
    ]
    return table(["model", "precision", "texts", "same label", "mean difference", "largest", "batch"], rows)


def kernels(models: Sequence[Row]) -> str:
    """Return the share of each kind of kernel in the GPU's time."""
    profiles = [(model["model"], row) for model in models for row in model.get("kernels", [])]
    kinds = list(dict.fromkeys(kind for _, row in profiles for kind in row["kinds"]))
    rows = [
        [
            *(model, row["name"], part(row["busy_s"] / row["wall_s"])),
            *(part(row["kinds"].get(kind, 0) / row["busy_s"] if row["busy_s"] else None) for kind in kinds),
        ]
        for model, row in profiles
    ]
    return table(["model", "precision", "busy", *kinds], rows)


def largest(models: Sequence[Row]) -> str:
    """Return the kernels that took longest, by name."""
    rows = [
        [model["model"], row["name"], part(kernel["seconds"] / row["busy_s"]), f"`{kernel['kernel'][:100]}`"]
        for model in models
        for row in model.get("kernels", [])
        for kernel in row.get("largest", [])
        if row["busy_s"]
    ]
    return table(["model", "precision", "share", "kernel"], rows)


def write(results: Row, folder: Path) -> None:
    """Write results.json and report.md; a run that is interrupted keeps its results so far."""
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(render(results), encoding="utf-8")
