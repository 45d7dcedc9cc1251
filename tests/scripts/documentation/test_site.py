"""The documentation without building it: links, navigation, tutorials, and the pages made from the code.

`scripts/docs.py` builds the site and checks the links of what was built.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from handler.config import ModelConfig, ServingConfig
from handler.description import describe
from handler.predictor import Predictor
from scripts.documentation.build import broken_links
from scripts.documentation.links import broken, links
from scripts.documentation.reference import SETTINGS, fields_of, routes_page, settings_page
from scripts.documentation.staging import CONFIG, REFERENCE, page_of, rewritten, sources
from tests.support.live import activated
from tests.support.samples import ROOT

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def name_of(path: Path) -> str:
    """Return the path of a file in the repository."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("source", list(sources()), ids=name_of)
def test_every_link_leads_somewhere(source: Path, tmp_path: Path) -> None:
    """To a file or folder, and to a heading of it; as page of the site too."""
    assert list(broken(source)) == []
    page = tmp_path / page_of(source)
    page.parent.mkdir(parents=True, exist_ok=True)
    pages = {page_of(other) for other in sources()} | set(REFERENCE)
    for target in links(rewritten(source, tmp_path)):
        path = target.partition("#")[0]
        linked = (page.parent / path).resolve()
        assert not path or linked.is_file() or str(linked.relative_to(tmp_path.resolve())) in pages, target


def test_the_navigation_names_every_page() -> None:
    """Once, and nothing else."""
    named = re.findall(r'= "([^"]+\.md)"', CONFIG.read_text(encoding="utf-8"))
    assert sorted(named) == sorted([*map(page_of, sources()), *REFERENCE])


def test_a_page_is_shown_as_github_shows_it(tmp_path: Path) -> None:
    """There a pipe in the code of a table has a backslash before it, which the site would show."""
    page = rewritten(ROOT / "docs" / "data.md", tmp_path)
    assert "with `;`, tabs or `|` in it" in page


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """In Markdown and in a built page: a file, an anchor."""
    page = tmp_path / "a.md"
    page.write_text("# One two\n[x](#one-two) [x](#two) [x](b.md) [x](https://x) `[x](c.md)`\n```\n[x](d.md)\n```\n")
    assert list(broken(page)) == ["#two", "b.md"]
    (tmp_path / "a.html").write_text('<p id="x"><a href="#x"></a><a href="#y"></a><img src="b.png"></p>')
    assert list(broken_links(tmp_path)) == ["a.html: #y", "a.html: b.png"]


@cache
def help_of(*words: str) -> str:
    """Return what a command prints for --help."""
    command = [str(ROOT / "scripts" / words[0]), *words[1:], "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=activated()).stdout


def commands(page: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every command of this package on a page: its words for --help, and the rest of its line."""
    for block in re.findall(r"(?ms)^```bash\n(.*?)^```$", page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"scripts/([a-z]+\.(?:py|sh)) ?(.*)", line):
                name, rest = match.groups()
                yield (name, rest.split()[0]) if name == "models.py" else (name,), rest


@pytest.mark.parametrize("page", [*TUTORIALS, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_the_commands_of_a_tutorial_exist(page: Path) -> None:
    """With their options; the example files that they name are there."""
    found = list(commands(page))
    assert found
    for words, rest in found:
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert option in help_of(*words), f"{words}: {option}"
        for file in re.findall(r"examples/[\w./-]+", rest):
            assert (ROOT / file).is_file()


def test_the_picture_of_the_playground_can_be_renewed() -> None:
    """By a command that CONTRIBUTING.md shows, in the size that it takes."""
    (option,) = re.findall(r"tests\.browser (--[a-z]+) docs/playground\.png", (ROOT / "CONTRIBUTING.md").read_text())
    program = (ROOT / "tests" / "browser" / "__main__.py").read_text()  # its imports need a browser
    assert f'"{option}", type=Path' in program
    (size,) = re.findall(r"PICTURE_SIZE = \((\d+), (\d+)\)", program)
    with Image.open(ROOT / "docs" / "playground.png") as picture:
        assert picture.size == tuple(map(int, size))


@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_tutorials_can_be_run_one_after_the_other(page: Path) -> None:
    """Each activates the environment before its first Python, and stops the server that it started."""
    blocks = re.findall(r"(?ms)^```(bash|python)\n(.*?)^```$", page.read_text(encoding="utf-8"))
    activated_at = next(n for n, (_, text) in enumerate(blocks) if "source .venv/bin/activate" in text)
    assert "python" not in [language for language, _ in blocks[:activated_at]]
    verbs = [rest.split()[0] for words, rest in commands(page) if words == ("serve.sh",)]
    assert verbs == ["start", "stop"]


def test_the_reference_of_settings() -> None:
    """Every field of the settings of a model, with its default."""
    for (file, name), kind in zip(SETTINGS.values(), (ServingConfig, ModelConfig), strict=True):
        assert [row[0].strip("`") for row in fields_of(file, name)] == [each.name for each in dataclasses.fields(kind)]
    page = settings_page()
    assert "| `max_texts` | `int` | `1000` | of one request |" in page
    assert "inference_address=" in page


def test_the_reference_of_routes(predictor: Predictor) -> None:
    """Every route and parameter of a model's OpenAPI document."""
    document = describe(predictor)["openapi"]
    page = routes_page(document)
    for path in document["paths"]:
        assert f"| `POST {path}` |" in page
    assert "| `top_k` | 5 |" in page
