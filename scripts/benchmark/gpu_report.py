"""What was measured on a GPU -> Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.benchmark.tables import number, table

Row = dict[str, Any]

SPEED = """Tokens to scores. Engine, `transformers` and matrix products run in turn; told are medians. *own products*:
the matrix products of one layer at this precision, alone, with as many rows as one forward pass of the engine has
tokens. *peak*: a product of 8192 x 8192 x 8192 at this precision, the same way. Work is counted as 2n(4h² + 2hf)L +
4nhL² operations a sequence; padding is no work. The batches of `transformers` lie on the GPU beforehand, each of the
best of several sizes; the engine lays its own out while the clock runs."""
LATENCY = """Milliseconds from tokens to scores, of short texts (mean 15 tokens), one call after the other."""
BUDGETS = """Thousand tokens a second, on lengths like SQuAD's, by `max_batch_tokens`; in bold what the engine chose."""
WORKERS = """Texts a second from the bytes of requests to those of answers, on lengths like SQuAD's: all that a worker
does but HTTP, several workers on one GPU."""
AGREEMENT = """Scores against `transformers` in fp32, one text at a time. *company*: the largest difference between a
text's score alone and in the batch of all."""
KERNELS = """Parts of the time that kernels took, on lengths like SQuAD's; *busy*: their time over that of the clock."""


def render(results: Row) -> str:
    """Write the whole report."""
    models = results["models"]
    parts = [
        about(results["about"], models),
        section("Speed", SPEED, "\n\n".join(filter(None, map(speed, models)))),
        section("Latency", LATENCY, latency(models)),
        section("Token budget", BUDGETS, budgets(models)),
        section("Workers", WORKERS, workers(results.get("workers", []))),
        section("Agreement", AGREEMENT, agreement(models)),
        section("Kernels", KERNELS, kernels(models)),
        section("Left out", "", "\n".join(f"* {reason}" for reason in results["left_out"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about(facts: Row, models: Sequence[Row]) -> str:
    """Write where and with what was measured, and what of the engine was in use."""
    engines = [
        f"{model['model']} {name}: {its['max_batch_tokens']} tokens a pass, {its['layer']}, {its['graphs']} graphs"
        for model in models
        for name, its in model.get("engines", {}).items()
    ]
    lines = ["# Measured on a GPU", "", *(f"* **{name}**: {fact}" for name, fact in facts.items())]
    return "\n".join([*lines, *(f"* **Engine** {engine}" for engine in engines)])


def section(title: str, told: str, body: str) -> str:
    """Write one section; nothing where nothing was measured."""
    return "\n\n".join(filter(None, (f"## {title}", told, body))) if body else ""


def speed(model: Row) -> str:
    """Write one model's speed on every mix of lengths."""
    rows = []
    for mix in model["speed"]:
        for row in sorted(mix["rows"], key=lambda its: -its["texts_per_s"]):
            ours = row["name"].startswith("engine")
            rows.append(
                [
                    *(
                        f"{mix['mix']} ({mix['tokens'] / mix['texts']:.0f})",
                        f"**{row['name']}**" if ours else row["name"],
                    ),
                    *(number(row["texts_per_s"]), number(row["tokens_per_s"]), number(row["tflops"])),
                    *(part(row["of_own_products"]), part(row["of_peak"])),
                ]
            )
    header = ["lengths", "contender", "texts/s", "tokens/s", "TFLOP/s", "of own products", "of peak"]
    roofs = [f"{name} {number(its)} TFLOP/s" for name, its in (model["speed"] or [{"roofs": {}}])[0]["roofs"].items()]
    return f"### {model['model']}\n\n{', '.join(roofs)}\n\n{table(header, rows)}" if rows else ""


def part(value: float | None) -> str:
    """Write a part of one.

    >>> part(0.7), part(None)
    ('70%', '-')
    """
    return "-" if value is None else f"{value:.0%}"


def latency(models: Sequence[Row]) -> str:
    """Write how long a few texts take."""
    rows = [
        [model["model"], its["name"], its["texts"], f"{its['p50']:.2f}", f"{its['p99']:.2f}"]
        for model in models
        for its in model["latency"]
    ]
    return table(["model", "contender", "texts", "p50", "p99"], rows)


def budgets(models: Sequence[Row]) -> str:
    """Write the speed of every token budget in a line for each engine."""
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for model in models:
        for its in model.get("budgets", []):
            told = number(its["tokens_per_s"] / 1e3)
            cells = lines.setdefault((model["model"], its["name"]), {})
            cells[its["budget"]] = f"**{told}**" if its["chosen"] else told
    sizes = list(next(iter(lines.values()), {}))
    rows = [[*names, *(cells.get(size, "-") for size in sizes)] for names, cells in lines.items()]
    return table(["model", "precision", *map(str, sizes)], rows)


def workers(rows: Sequence[Row]) -> str:
    """Write what several workers do side by side."""
    cells = [[its["workers"], its["requests"], its["texts_a_request"], number(its["texts_per_s"])] for its in rows]
    return table(["workers", "requests a batch", "texts a request", "texts/s"], cells)


def agreement(models: Sequence[Row]) -> str:
    """Write how far scores lie from those in fp32, and from themselves in company."""
    rows = [
        [
            *(model["model"], its["name"], its["texts"], f"{its['same_label']:.2%}"),
            *(f"{its[key]:.4f}" for key in ("mean_difference", "largest_difference", "company")),
        ]
        for model in models
        for its in model.get("agreement", [])
    ]
    return table(["model", "precision", "texts", "same label", "mean difference", "largest", "company"], rows)


def kernels(models: Sequence[Row]) -> str:
    """Write what the GPU's time went into."""
    told = [(model["model"], its) for model in models for its in model.get("kernels", [])]
    kinds = list(dict.fromkeys(kind for _, its in told for kind in its["kinds"]))
    rows = [
        [
            *(model, its["name"], part(its["busy_s"] / its["wall_s"])),
            *(part(its["kinds"].get(kind, 0) / its["busy_s"] if its["busy_s"] else None) for kind in kinds),
        ]
        for model, its in told
    ]
    return table(["model", "precision", "busy", *kinds], rows)
