"""The pages of the site: the Markdown of the repository as it is, with links that lead to pages or to copies of files.

README.md is the first page; everything else keeps its path, so that a link means the same on the site and in the
repository. A linked file that is no page is copied; a linked folder becomes plain text.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from scripts.cli.console import ROOT
from scripts.documentation.links import EXTERNAL, FENCE
from scripts.documentation.reference import commands_page, openapi_of, routes_page, settings_page

CONFIG, STYLE = ROOT / "docs" / "zensical.toml", ROOT / "docs" / "zensical.css"
REFERENCE = ("docs/reference/commands.md", "docs/reference/settings.md", "docs/reference/routes.md")
TABLE_ROW, CODE = re.compile(r"(?m)^\|.*$"), re.compile(r"`[^`\n]+`")
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"  # before a page that the search shall not find
NAMED_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[([^\]]*)\]\(([^)\s]+)\)")


def sources() -> Iterator[Path]:
    """Yield the Markdown files that are pages."""
    yield from sorted(ROOT.glob("*.md"))
    for folder in ("docs", "examples", "findings"):
        yield from sorted((ROOT / folder).rglob("*.md"))


def page_of(source: Path) -> str:
    """Return the path of a page on the site.

    >>> page_of(ROOT / "README.md"), page_of(ROOT / "examples" / "intents" / "README.md")
    ('index.md', 'examples/intents/index.md')
    """
    path = source.relative_to(ROOT)
    return (path.parent / "index.md" if path.name == "README.md" else path).as_posix()


def stage(folder: Path) -> None:
    """Write the pages, the files that they link and the settings of the site into an empty folder."""
    pages = folder / "pages"
    for source in sources():
        target = pages / page_of(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        front = UNSEARCHED if source.name == "CHANGELOG.md" else ""  # it names everything, and explains nothing
        target.write_text(front + rewritten(source, pages), encoding="utf-8")
    contents = (commands_page(), settings_page(), routes_page(openapi_of(ROOT / "model_store")))
    for name, content in zip(REFERENCE, contents, strict=True):
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text(content, encoding="utf-8")
    shutil.copy(CONFIG, folder / "zensical.toml")
    shutil.copy(STYLE, pages / "docs" / STYLE.name)


def rewritten(source: Path, pages: Path) -> str:
    """Return a page with its links as the site has them; copy the files that it links."""
    text = source.read_text(encoding="utf-8")
    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [_prose(text[at : fence.start()], source, pages), fence[0]]
        at = fence.end()
    return "".join([*parts, _prose(text[at:], source, pages)])


def _prose(text: str, source: Path, pages: Path) -> str:
    """Return text between fences with its links; the backslash before a pipe in a table's code would be shown."""
    rows = TABLE_ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), text)
    return _links(rows, source, pages)


def _links(text: str, source: Path, pages: Path) -> str:
    def replace(match: re.Match[str]) -> str:
        label, target = (match[1], match[2]) if match[2] else (match[3], match[4])
        path, _, fragment = target.partition("#")
        if EXTERNAL.match(target) or not path:
            return match[0]
        linked = (source.parent / path).resolve()
        if linked.is_dir():
            return label
        if linked.suffix == ".md":
            path = re.sub(r"README\.md$", "index.md", path)
            return match[0].replace(target, path + (f"#{fragment}" if fragment else ""))
        copy = pages / linked.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(linked, copy)
        return match[0]

    return NAMED_LINK.sub(replace, text)
