"""Parts of the report's page: cells, tables that sort, cards, sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

SHOWN = 12  # rows of a table before "show all"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it is sorted by, what is shown, and whether it is marked."""

    value: object
    text: str | None = None
    html: str | None = None
    alert: bool = False

    def render(self) -> str:
        """Return it as HTML."""
        shown = self.html if self.html is not None else escape(str(self.value) if self.text is None else self.text)
        is_number = isinstance(self.value, (int, float))
        kinds = " ".join(name for name, holds in (("number", is_number), ("alert", self.alert)) if holds)
        key = f' data-key="{self.value}"' if is_number else ""
        return f"<td{f' class={chr(34)}{kinds}{chr(34)}' if kinds else ''}{key}>{shown}</td>"


@dataclass(frozen=True)
class PageSection:
    """A section of the page and the name under which the navigation finds it."""

    title: str
    anchor: str
    html: str


def cells(*values: object) -> list[Cell]:
    """Return plain cells."""
    return [Cell(value) for value in values]


def sortable(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table that sorts by a click on its header; rows beyond the first few are shown on demand."""
    head = "".join(f"<th{'' if name else ' class=plain'}>{escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr{' class=more' if index >= SHOWN else ''}>{''.join(cell.render() for cell in row)}</tr>"
        for index, row in enumerate(rows)
    )
    button = f'<button class="all">show all {len(rows)}</button>' if len(rows) > SHOWN else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{button}'


def card(title: str, value: str, note: str, *, main: bool = False, alert: bool = False) -> str:
    """Return one number with a title and a note."""
    kinds = "card" + (" main" if main else "") + (" bad" if alert else "")
    return (
        f'<div class="{kinds}"><span class="quiet">{escape(title)}</span><strong>{escape(value)}</strong>'
        f'<span class="quiet">{escape(note)}</span></div>'
    )


def section(title: str, anchor: str, body: str) -> PageSection:
    """Return a section of the page."""
    html = f'<section id="{anchor}"><h2>{escape(title)}</h2>{body}</section>' if body else ""
    return PageSection(title, anchor, html)


def number(value: float | None) -> str:
    """Return a number with three digits; a hyphen for an unknown one."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def interval_text(interval: Mapping[str, float | None]) -> str:
    """Return the bounds of an interval."""
    return f"{number(interval['lower'])} to {number(interval['upper'])}"
