"""Build the site with Zensical, and check every link and anchor of what was built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from scripts.cli.console import ScriptError, say
from scripts.cli.files import check_folder
from scripts.documentation.staging import stage


def build(output: Path) -> None:
    """Write the site to a folder, which is replaced.

    Raises:
        ScriptError: Zensical is not installed or fails, a link leads nowhere, or the folder cannot be written.
    """
    if output.exists() and not output.is_dir():
        raise ScriptError(f"{output} is a file: choose another --output")
    check_folder(output.parent)
    if output.exists() and any(output.iterdir()) and not (output / "search.json").is_file():
        raise ScriptError(f"{output} exists and is no site: choose another --output")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stage(folder)
        command = [sys.executable, "-m", "zensical", "build", "--clean"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if "No module named zensical" in done.stderr:
            raise ScriptError("the site needs Zensical: .venv/bin/python -m pip install -r requirements/docs.txt")
        if done.returncode:
            raise ScriptError(f"zensical failed: {(done.stdout + done.stderr).strip()[-500:]}")
        problems = list(broken_links(folder / "site"))
        if problems:
            raise ScriptError("links of the site lead nowhere: " + ", ".join(problems[:20]))
        if output.exists():
            shutil.rmtree(output)
        shutil.move(folder / "site", output)
    say(f"written: {output / 'index.html'}")


def broken_links(site: Path) -> Iterator[str]:
    """Yield the links of the pages of a site that lead to no file or to no element."""
    pages = {file.resolve(): _Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    for file, page in pages.items():
        if file.name == "404.html":  # its links begin at the root of the host
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.is_file() or (known and parts.fragment and unquote(parts.fragment) not in known.ids):
                yield f"{file.relative_to(site.resolve())}: {link}"


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element's anchor, and where it leads."""
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value and tag in ("a", "img"):
                self.links.append(value)
