"""The README in parts: its fenced blocks, and its examples with their answers."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.support.samples import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """One fenced block, and the language of its fence."""

    language: str
    text: str


def blocks(section: str) -> list[Block]:
    """Return the fenced blocks under a heading."""
    return fenced(re.split(r"(?m)^## ", README.split(f"\n## {section}\n", 1)[1])[0])


def fenced(text: str) -> list[Block]:
    """Return the fenced blocks of a text."""
    return [Block(*groups) for groups in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", text)]


KEY = next(block.text for block in blocks("Ask it") if block.text.startswith("KEY="))
ASK = next(block.text for block in blocks("Every task") if block.text.startswith("ask()"))


def examples(section: str) -> list[tuple[Block, Block]]:
    """Return every example of a section with the answer that follows it."""
    fenced = [block for block in blocks(section) if block.language != "sh" and block.text not in (KEY, ASK)]
    return list(zip(fenced[::2], fenced[1::2], strict=True))
