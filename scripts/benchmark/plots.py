"""Figures of a benchmark, each as SVG and as PNG.

Colours are those of Okabe and Ito, distinguishable with any colour vision; this package is also marked by bold labels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"),
    "#8C8C8C",
)
PRECISIONS = {"fp32": BLUE, "bf16": ORANGE, "fp16": PURPLE, "int8": GREEN, "fp8": SKY}
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "bench",  # equal numbers, equal file
}


def draw(results: Row, folder: Path) -> list[str]:
    """Draw the figures of all parts in the results; return the names of the PNG files."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    pictures: dict[str, tuple[str, Callable[[Any, list[Row]], Any]]] = {
        "roofline": ("engine", roofline),
        "peers": ("peers", peers),
        "padding": ("peers", padding),
        "latency": ("server", latency),
        "scaling": ("scaling", scaling),
    }
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, (part, picture) in pictures.items():
            if results.get(part):
                figure = picture(pyplot, results[part])
                for kind in ("svg", "png"):
                    metadata = {"Date": None} if kind == "svg" else None
                    figure.savefig(folder / f"{name}.{kind}", bbox_inches="tight", metadata=metadata)
                pyplot.close(figure)
                drawn.append(f"{name}.png")
    return drawn


def roofline(pyplot: Any, rows: list[Row]) -> Any:
    """Draw the fraction of the roofline: one group of bars for each model and mix."""
    groups = list(dict.fromkeys((row["model"], row["mix"]) for row in rows))
    precisions = list(dict.fromkeys(row["precision"] for row in rows if "fraction" in row))
    figure, axes = pyplot.subplots(figsize=(max(6, 1.5 * len(groups) + 1), 3.8))
    width = 0.8 / max(1, len(precisions))
    for bar, precision in enumerate(precisions):
        for group, key in enumerate(groups):
            matching = [row for row in rows if (row["model"], row["mix"]) == key and row["precision"] == precision]
            if matching and "fraction" in matching[0]:
                row, at = matching[0], group + (bar - (len(precisions) - 1) / 2) * width
                low, high = row["fraction_spread"]
                error = [[max(0, row["fraction"] - low)], [max(0, high - row["fraction"])]]
                label = precision if group == 0 else None
                colour = PRECISIONS.get(precision, GREY)
                axes.bar(at, row["fraction"], width * 0.92, color=colour, label=label, yerr=error, ecolor="#444444")
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                above = max(row["fraction"], high) + 0.02
                axes.text(at, above, f"{row['fraction']:.0%}", ha="center", fontsize=9, bbox=box, zorder=4)
    axes.axhline(1, color="#444444", linewidth=1)
    axes.axhline(0.75, color="#444444", linewidth=1, linestyle=(0, (4, 3)))
    for height, text in ((1, "roofline"), (0.75, "goal for\nbert-base")):
        axes.text(len(groups) - 0.35, height, text, va="center", fontsize=9, color="#444444")
    axes.set_xticks(range(len(groups)), [f"{model}\n{mix}" for model, mix in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, max(1.1, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", visible=False)
    axes.set_title("The engine as a share of what this machine can multiply", pad=24)
    axes.legend(ncols=len(precisions), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    return figure


def peers(pyplot: Any, rows: list[Row]) -> Any:
    """Draw the speed of every peer as a multiple of packed fp32, fastest on top."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    mixes = list(dict.fromkeys(row["mix"] for row in rows))
    most_peers = max(len(row["contenders"]) for row in rows)
    figure, grid = pyplot.subplots(
        len(models), len(mixes), squeeze=False, figsize=(6.2 * len(mixes), 0.34 * most_peers * len(models) + 1.1)
    )
    for row in rows:
        axes = grid[models.index(row["model"])][mixes.index(row["mix"])]
        ordered = sorted(row["contenders"], key=lambda peer: float(peer["ratio"]))
        colours = [BLUE if peer["ours"] else "#B9BEC4" for peer in ordered]
        spreads = [[max(0, peer["ratio"] - peer["ratio_spread"][0]) for peer in ordered]]
        spreads += [[max(0, peer["ratio_spread"][1] - peer["ratio"]) for peer in ordered]]
        ratios = [peer["ratio"] for peer in ordered]
        axes.barh(range(len(ordered)), ratios, color=colours, height=0.72, xerr=spreads, ecolor="#444444")
        for line, peer in enumerate(ordered):
            text = f"{peer['ratio']:.2f}   {peer['texts_per_s']:.0f} texts/s"
            axes.text(peer["ratio_spread"][1] + 0.02 * max(ratios), line, text, va="center", fontsize=8.5)
        axes.set_yticks(range(len(ordered)), [short(peer["name"]) for peer in ordered])
        for label, peer in zip(axes.get_yticklabels(), ordered, strict=True):
            label.set_fontweight("bold" if peer["ours"] else "normal")
        axes.axvline(1, color="#444444", linewidth=1)
        axes.set_xlim(0, max(peer["ratio_spread"][1] for peer in ordered) * 1.5)
        axes.set_title(f"{row['model']}, {row['mix']} ({row['tokens'] / row['texts']:.0f} tokens a text)")
        axes.grid(axis="y", visible=False)
    for axes in grid[-1]:
        axes.set_xlabel("times the speed of packed fp32")
    figure.tight_layout()
    return figure


def short(name: str) -> str:
    """Shorten the name of a peer for an axis."""
    return name.replace("padded to 128 or 512, as the official handler", "fixed length (official handler)").replace(
        ", padded to the longest", ""
    )


def padding(pyplot: Any, rows: list[Row]) -> Any:
    """Draw the computed tokens per real token of each way to pad."""
    kinds = {"packed": ("packed (ours)", BLUE), "sorted": ("sorted, batches of 8", SKY)}
    kinds |= {"longest": ("to the longest of 32", ORANGE), "fixed": ("to 128 or 512 (official handler)", RED)}
    groups = list({row["mix"]: row for row in rows}.values())
    figure, axes = pyplot.subplots(figsize=(7, 3.4))
    for bar, (kind, (label, colour)) in enumerate(kinds.items()):
        values = [row["padding"].get(kind, 1.0) for row in groups]
        at = [group + (bar - 1.5) * 0.2 for group in range(len(groups))]
        axes.bar(at, values, 0.185, color=colour, label=label)
        for x, value in zip(at, values, strict=True):
            axes.text(x, value + 0.08, f"{value:.1f}", ha="center", fontsize=9)
    axes.set_xticks(range(len(groups)), [f"{row['mix']}, mean {row['tokens'] / row['texts']:.0f}" for row in groups])
    axes.set_ylabel("computed tokens per real token")
    axes.grid(axis="x", visible=False)
    axes.set_title("What padding costs")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def latency(pyplot: Any, rows: list[Row]) -> Any:
    """Draw latency against the rate of requests, with the latency bound."""
    figure, grid = pyplot.subplots(1, len(rows), squeeze=False, figsize=(5.2 * len(rows), 3.8))
    for axes, row in zip(grid[0], rows, strict=True):
        trials = sorted(row["trials"], key=lambda trial: float(trial["rate"]))
        rates = [trial["rate"] for trial in trials]
        for name, colour, mark in (("p50_ms", SKY, "o"), ("p90_ms", BLUE, "s"), ("p99_ms", RED, "^")):
            axes.plot(rates, [trial[name] for trial in trials], color=colour, marker=mark, label=name[:3])
            axes.annotate(
                name[:3], (rates[-1], trials[-1][name]), xytext=(7, 0), textcoords="offset points", va="center"
            )
        axes.axhline(row["bound_ms"], color="#444444", linewidth=1, linestyle=(0, (4, 3)))
        axes.text(rates[0], row["bound_ms"] * 1.05, f"bound of p99: {row['bound_ms']:.0f} ms", fontsize=9)
        if row["found"]:
            axes.axvline(row["found"], color=GREEN, linewidth=1.5)
            axes.text(row["found"], axes.get_ylim()[0], f" {row['found']:.0f}/s found", color=GREEN, va="bottom")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axes.set_xlabel("requests a second, one text each, Poisson arrivals")
        axes.set_ylabel("latency, ms")
        axes.set_title(f"{row['model']} {row['precision']}, {row['mix']} texts over HTTP")
    figure.tight_layout()
    return figure


LABELS = {
    "work": "tokens of work at once",
    "batch": "texts at once",
    "budget": "tokens of one forward pass",
    "threads": "threads",
    "workers": "workers",
}


def scaling(pyplot: Any, rows: list[Row]) -> Any:
    """Draw one panel for each parameter that was varied."""
    kinds = [kind for kind in LABELS if any(row["kind"] == kind for row in rows)]
    columns = min(3, len(kinds))
    lines = -(-len(kinds) // columns)
    figure, cells = pyplot.subplots(lines, columns, squeeze=False, figsize=(4.1 * columns, 3.4 * lines))
    grid = cells.flatten()
    series = list(dict.fromkeys((row["model"], row["precision"]) for row in rows))
    models = list(dict.fromkeys(model for model, _ in series))
    for axes, kind in zip(grid, kinds, strict=False):
        for row in (row for row in rows if row["kind"] == kind):
            at = [point["at"] for point in row["points"]]
            dashes = ("-", (0, (5, 2)), ":")[models.index(row["model"]) % 3]
            colour = PRECISIONS.get(row["precision"], GREY)
            label = f"{row['model']} {row['precision']}"
            values = [point["us_per_token"] if kind == "work" else point["tokens_per_s"] for point in row["points"]]
            axes.plot(at, values, marker="o", color=colour, linestyle=dashes, label=label)
        if kind in ("threads", "workers"):
            axes.set_xticks(sorted({point["at"] for row in rows if row["kind"] == kind for point in row["points"]}))
        else:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
        axes.set_xlabel(LABELS[kind])
        axes.set_ylim(bottom=0)
        axes.set_title("µs a token" if kind == "work" else "tokens/s")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in grid[len(kinds) :]:
        axes.set_axis_off()
    last = grid[-1] if len(grid) > len(kinds) else grid[0]
    last.legend(*grid[0].get_legend_handles_labels(), loc="upper left" if last is not grid[0] else "lower left")
    figure.tight_layout()
    return figure
