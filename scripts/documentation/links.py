"""Links and headings of Markdown, as GitHub reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"(?ms)^(```+|~~~+).*?^\1\s*$")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"(?m)^#{1,6} +(.+?) *#*$")
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:")


def without_code(text: str) -> str:
    """Return Markdown without its fenced blocks, whose links and headings are none."""
    return FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of the links of a page that lead into the repository.

    >>> links("[a](b.md#c) [d](https://e) ![f](g.png)")
    ['b.md#c', 'g.png']
    """
    plain = re.sub(r"`[^`\n]*`", "", without_code(text))
    return [target for target in LINK.findall(plain) if not EXTERNAL.match(target)]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a page.

    >>> sorted(anchors("# A `b`, c!\\n## A b c"))
    ['a-b-c', 'a-b-c-1']
    """
    found: set[str] = set()
    for heading in HEADING.findall(without_code(text)):
        slug = base = anchor(heading)
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def anchor(heading: str) -> str:
    """Return the anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def broken(file: Path) -> Iterator[str]:
    """Yield the links of a file that lead nowhere: to no file or folder, or to no heading."""
    text = file.read_text(encoding="utf-8")
    for target in links(text):
        path, _, fragment = target.partition("#")
        linked = file.parent / path if path else file
        if not linked.exists() or (
            fragment and linked.suffix == ".md" and fragment not in anchors(linked.read_text(encoding="utf-8"))
        ):
            yield target
