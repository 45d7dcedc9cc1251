"""scripts/explain.py as a test runs it, and a reader of the page that it writes."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

from tests.support.live import activated
from tests.support.samples import ROOT


class PageReader(HTMLParser):
    """Collects what stands in the paragraphs of texts, and the style of each word."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.inside = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe")
        if attributes.get("class") == "text":
            self.inside = True
            self.texts.append("")
        elif self.inside and tag == "span":
            self.styles.append(str(attributes["style"]))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def explain(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder."""
    command = [sys.executable, str(ROOT / "scripts" / "explain.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=activated())
