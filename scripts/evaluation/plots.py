"""Plots as SVG inside a page: colours are the page's variables, so that they follow its light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SIZE, MARGIN = 300, 52  # of a plot, in its own units
HISTOGRAM = 44  # height of the histogram below the reliability diagram


def share(value: float | None) -> str:
    """Return a share as a percentage; a hyphen for an unknown one.

    >>> share(0.12345), share(None)
    ('12.3 %', '-')
    """
    return "-" if value is None else f"{100 * value:.1f} %"


def interval_bar(interval: Mapping[str, float | None] | None, *, alert: bool = False, highest: float = 1.0) -> str:
    """Return a line from the lower to the upper bound of an interval, with a dot at the value, on a scale from 0."""
    if interval is None or interval["value"] is None:
        return ""
    lower, value, upper = (
        100 * min(max(float(interval[key] or 0), 0), highest) / highest for key in ("lower", "value", "upper")
    )
    colour = "var(--alert)" if alert else "var(--accent)"
    return (
        f'<svg class="interval" viewBox="-5 0 110 12" role="img" aria-label="{lower:.0f} to {upper:.0f} %">'
        f'<line x1="0" y1="6" x2="100" y2="6" stroke="var(--line)"/>'
        f'<line x1="{lower:.1f}" y1="6" x2="{upper:.1f}" y2="6" stroke="{colour}" stroke-width="3" stroke-linecap="round"/>'
        f'<circle cx="{value:.1f}" cy="6" r="4" fill="{colour}"/></svg>'
    )


def share_bar(value: float, *, alert: bool = False) -> str:
    """Return a bar as long as a share."""
    colour = "var(--alert)" if alert else "var(--accent)"
    width = 100 * min(max(value, 0), 1)
    return (
        f'<svg class="interval" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="12" rx="2" fill="var(--line)"/>'
        f'<rect width="{width:.1f}" height="12" rx="2" fill="{colour}"/></svg>'
    )


def axes(x_title: str, y_title: str, y_from: float = 0.0, extra: int = 0) -> list[str]:
    """Return the frame, the grid and the titles of a plot of shares; the vertical axis begins at `y_from`."""
    parts = []
    for step in range(6):
        part = step / 5
        x, y = MARGIN + part * SIZE, 10 + (1 - part) * SIZE
        parts += [
            f'<line x1="{x:.1f}" y1="10" x2="{x:.1f}" y2="{SIZE + 10}" class="grid"/>',
            f'<line x1="{MARGIN}" y1="{y:.1f}" x2="{MARGIN + SIZE}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{x:.1f}" y="{SIZE + extra + 26}" text-anchor="middle">{part:.1f}</text>',
            f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{y_from + part * (1 - y_from):.2g}</text>',
        ]
    middle = MARGIN + SIZE / 2
    return [
        *parts,
        f'<text x="{middle}" y="{SIZE + extra + 44}" text-anchor="middle" class="title">{escape(x_title)}</text>',
        f'<text transform="translate(11 {10 + SIZE / 2}) rotate(-90)" text-anchor="middle" class="title">{escape(y_title)}</text>',
    ]


def figure(parts: Sequence[str], title: str, extra: int = 0) -> str:
    """Return a plot with a title that a screen reader says."""
    width, height = SIZE + MARGIN + 14, SIZE + 54 + extra
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return accuracy against confidence for each bin, the gap to the diagonal, and how many answers each bin has."""
    parts = axes("confidence", "accuracy", extra=HISTOGRAM)
    most = max(part["count"] for part in bins)
    for part in bins:
        left, right = (MARGIN + part[key] * SIZE for key in ("lower", "upper"))
        width = max(right - left - 2, 1)
        top, ideal = (10 + (1 - part[key]) * SIZE for key in ("accuracy", "confidence"))
        lower, upper = max(top, ideal), min(top, ideal)
        count = HISTOGRAM * 0.8 * part["count"] / most
        place = f'x="{left + 1:.1f}" width="{width:.1f}"'
        note = f"{part['count']} answers: confidence {part['confidence']:.3f}, accuracy {part['accuracy']:.3f}"
        parts += [
            f"<g><title>{note}</title>",
            f'<rect {place} y="{lower:.1f}" height="{SIZE + 10 - lower:.1f}" class="bar"/>',
            f'<rect {place} y="{upper:.1f}" height="{lower - upper:.1f}" class="gap"/>',
            f'<line x1="{left + 1:.1f}" x2="{left + 1 + width:.1f}" y1="{top:.1f}" y2="{top:.1f}" class="edge"/>',
            f'<rect {place} y="{SIZE + 10 + HISTOGRAM - count:.1f}" height="{max(count, 1):.1f}" class="count"/></g>',
        ]
    parts.append(f'<line x1="{MARGIN}" y1="{SIZE + 10}" x2="{MARGIN + SIZE}" y2="10" class="diagonal"/>')
    return figure(parts, "reliability diagram: accuracy against confidence", HISTOGRAM)


def coverage_plot(curves: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> str:
    """Return accuracy against coverage, one curve for each model; the vertical axis begins below the lowest point."""
    lowest = min(point["accuracy"] for _, points in curves for point in points)
    y_from = min(math.floor(lowest * 10 - 0.5) / 10, 0.9)
    y_from = max(y_from, 0.0)
    parts = axes("coverage: share of answers above a confidence", "accuracy of these", y_from)
    for number, (name, points) in enumerate(curves):
        places = " ".join(
            f"{MARGIN + point['coverage'] * SIZE:.1f},{10 + (1 - (point['accuracy'] - y_from) / (1 - y_from)) * SIZE:.1f}"
            for point in points
        )
        parts.append(
            f'<polyline points="{places}" class="curve curve{number}"><title>{escape(name)}</title></polyline>'
        )
    return figure(parts, "accuracy against coverage")


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Return the counts of targets (rows) and predictions (columns); the darkness is the share of the row."""
    cell, left, top = 26, 8 + 7 * min(max(map(len, labels)), 24), 8 + 6 * min(max(map(len, labels)), 24)
    parts = []
    for i, label in enumerate(labels):
        name = label if len(label) <= 24 else f"{label[:23]}…"
        y, x = top + i * cell + cell / 2, left + i * cell + cell / 2
        parts += [
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>',
            f'<text transform="translate({x + 4} {top - 6}) rotate(-60)">{escape(name)}</text>',
        ]
        total = sum(matrix[i])
        for j, count in enumerate(matrix[i]):
            part = count / total if total else 0
            kind = "hit" if i == j else "miss"
            parts.append(
                f'<rect x="{left + j * cell}" y="{top + i * cell}" width="{cell - 1}" height="{cell - 1}" class="{kind}" '
                f'style="fill-opacity:{part:.3f}"><title>{escape(label)} as {escape(labels[j])}: {count}</title></rect>'
            )
            if count:
                shade = " dark" if part > 0.55 else ""
                parts.append(
                    f'<text x="{left + j * cell + cell / 2 - 0.5}" y="{y + 4}" text-anchor="middle" class="number{shade}">{count}</text>'
                )
    size = len(labels) * cell
    width, height = left + size + top * 0.7, top + size + 4
    return (
        f'<svg class="confusion" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )
