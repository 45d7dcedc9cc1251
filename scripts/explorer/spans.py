"""A text as HTML with parts of it highlighted, each with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from zlib import crc32

N_COLOURS = 8  # in answers.css


@dataclass(frozen=True)
class Span:
    """Characters of a text and what they are."""

    start: int
    end: int
    label: str = ""
    score: float | None = None


def highlighted(text: str, spans: Sequence[Span]) -> str:
    """Return a text as HTML, its spans marked; of spans that overlap the first one is marked.

    >>> highlighted("a & b", [Span(4, 5, "X", 0.5)])
    'a &amp; <mark class="c5" title="0.500">b<b>X</b></mark>'
    """
    parts, at = [], 0
    for span in sorted(spans, key=lambda span: span.start):
        if span.start < at or span.end <= span.start:
            continue
        title = "" if span.score is None else f' title="{span.score:.3f}"'
        label = f"<b>{escape(span.label)}</b>" if span.label else ""
        marked = f'<mark class="{colour_of(span.label)}"{title}>{escape(text[span.start : span.end])}{label}</mark>'
        parts.append(escape(text[at : span.start]) + marked)
        at = span.end
    return "".join(parts) + escape(text[at:])


def colour_of(label: str) -> str:
    """Return the class of a label's colour: the same for the same label, whatever others there are."""
    return f"c{crc32(label.encode(errors='replace')) % N_COLOURS}"
