"""The curves of a training as a picture: losses and validation metrics by epoch, the best epoch marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.training.tasks.base import LOWER_IS_BETTER

SIZE = (9.0, 3.6)  # inches
MARGINS = {"left": 0.06, "right": 0.98, "top": 0.9, "bottom": 0.14, "wspace": 0.16}


def draw(epochs: Sequence[Mapping[str, float]], titles: Mapping[str, str], best_epoch: int, file: Path) -> None:
    """Write a PNG with the losses on the left and the metrics on the right.

    Args:
        epochs: the epochs of training.json.
        titles: metric -> title.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    figure = Figure(figsize=SIZE, dpi=120)
    losses, metrics = figure.subplots(1, 2, gridspec_kw=MARGINS)  # a computed layout takes three times as long
    numbers = [int(epoch["epoch"]) for epoch in epochs]
    marker = "o" if len(numbers) < 30 else ""
    for key, title in (("loss", "training"), ("validation_loss", "validation")):
        losses.plot(numbers, [epoch[key] for epoch in epochs], marker=marker, markersize=3, label=title)
    for key, title in titles.items():
        arrow = " (lower is better)" if key in LOWER_IS_BETTER else ""
        metrics.plot(numbers, [epoch[key] for epoch in epochs], marker=marker, markersize=3, label=title + arrow)
    for axes, title in ((losses, "loss"), (metrics, "validation metrics")):
        finish(axes, title, best_epoch)
    figure.savefig(file, metadata={"Software": None})  # the same curves are the same bytes


def finish(axes: Any, title: str, best_epoch: int) -> None:
    """Add titles, grid, legend and the line of the best epoch."""
    from matplotlib.ticker import MaxNLocator

    axes.axvline(best_epoch, color="0.6", linestyle="--", linewidth=1, label=f"best epoch: {best_epoch}", zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=title, xlabel="epoch")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
