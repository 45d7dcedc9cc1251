"""The view of an examination that a person reads."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handler.protocol import JSON
from scripts.examination.examination import Examination

MAX_NAMES = 12  # of a list that is shown in full
MARKS = {"error": ("✗", "bold red"), "note": ("•", "yellow")}


def print_examination(examination: Examination, console: Console | None = None) -> None:
    """Print the facts by section, then the findings, then the verdict."""
    console = console or Console(markup=False, highlight=False)
    console.print(Text(examination.name, style="bold"))
    for title, facts in examination.sections.items():
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", width=14, no_wrap=True)
        grid.add_column(overflow="fold")
        for key, value in facts.items():
            grid.add_row(Text(key.replace("_", " ")), Text(shown(value)))
        console.print(Text(f"\n{title}", style="bold underline"))
        console.print(grid)
    if examination.findings:
        console.print(Text("\nfound", style="bold underline"))
    for finding in examination.findings:
        mark, style = MARKS[finding.level]
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(mark, style=style), Text(finding.message))
        console.print(grid)
    console.print(verdict(examination))


def verdict(examination: Examination) -> Text:
    """Return the last line."""
    errors = sum(finding.level == "error" for finding in examination.findings)
    if errors:
        what = "cannot be packed" if examination.kind == "model" else "will not be served"
        return Text(f"\n{what}: {errors} {'reason' if errors == 1 else 'reasons'} above", style="bold red")
    if examination.kind == "archive":
        return Text("\nsound: it answers here as when it was packed", style="bold green")
    return Text("\ncan be packed: scripts/package.py with the same options and --name NAME", style="bold green")


def shown(value: JSON) -> str:
    """Return a fact in words.

    >>> shown(["a", "b"]), shown(True), shown(22713216), shown({"query": "search: "})
    ('a, b', 'yes', '22,713,216', "query: 'search: '")
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {shown_item(item)}" for key, item in value.items())
    if isinstance(value, list):
        if any(isinstance(item, dict) or len(str(item)) > 40 for item in value):
            return "\n".join(shown(item) for item in value)
        more = f" and {len(value) - MAX_NAMES} more" if len(value) > MAX_NAMES else ""
        return ", ".join(map(str, value[:MAX_NAMES])) + more
    return str(value)


def shown_item(item: JSON) -> str:
    """Return a value of an object; a text in quotes, for its blanks count."""
    if isinstance(item, dict):
        return "".join(f"\n  {key}: {value}" for key, value in item.items())
    return repr(item) if isinstance(item, str) and item != item.strip() else shown(item)
