"""The report of an evaluation, to show beside the model (scripts/evaluate.py writes it)."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from scripts.explorer.answers import ANSWERS, message_html

MAX_BYTES = 20_000_000


def report_html(file: Path, model: str) -> str:
    """Return the report in a frame of its own, or what to do where there is none of this model.

    The frame cannot reach the page around it.
    """
    if not file.is_file():
        command = f"scripts/evaluate.py {model or 'NAME'} --data test.csv --output {file.parent}"
        return message_html(f"There is no report at {file}. To get one: {command}", "note")
    evaluated = model_of(file)
    if evaluated and evaluated[0] != model:
        return message_html(
            f"{file} is the report of {evaluated[0]}, not of {model}: scripts/evaluate.py {model} --data test.csv",
            "note",
        )
    if file.stat().st_size > MAX_BYTES:
        return message_html(f"{file} is too large to show here: open it in a browser", "note")
    content = escape(file.read_text(encoding="utf-8", errors="replace"))
    return (
        f'<div class="{ANSWERS}"><iframe sandbox="allow-scripts" srcdoc="{content}" '
        'title="report of the evaluation"></iframe></div>'
    )


def model_of(report: Path) -> tuple[str, str] | None:
    """Return name and version of the evaluated model, from report.json beside the page; None where it does not say."""
    try:
        model = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["model"]
        return str(model["name"]), str(model["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
