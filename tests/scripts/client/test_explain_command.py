"""scripts/explain.py: a page that holds the whole text, its words coloured, and nothing that leaves the browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scripts.client.explanation_page import ExplainedScore, page
from tests.support.live import Live, activated
from tests.support.samples import ROOT

ODD = 'The <script>alert(1)</script> & "screen" is\n black, it\'s 屏幕 👍'


class Reader(HTMLParser):
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


def explanation(words: list[Any], **changed: Any) -> Any:
    """Return an explanation as a model gives it."""
    facts = {"label": "joy", "score": 0.75, "baseline_score": 0.25, "convergence_delta": 0.001, "n_steps": 32}
    return {**facts, "words": words, **changed}


def word(text: str, part: str, attribution: float, **field: str) -> Any:
    """Return one word of an explanation."""
    start = text.index(part)
    return {"word": part, "start": start, "end": start + len(part), "attribution": attribution, **field}


def test_the_page_shows_the_text_as_it_is() -> None:
    """Every character, markup as text; blue for, orange against, deeper where it is more."""
    words = [word(ODD, "screen", 0.4), word(ODD, "black", -0.2), word(ODD, "屏幕", 0.1)]
    content = page("intents", [ExplainedScore(ODD, None, explanation(words))])
    reader = Reader(content)
    assert reader.texts == [ODD]
    assert reader.styles == [
        "background: rgba(var(--for), 0.75)",
        "background: rgba(var(--against), 0.38)",
        "background: rgba(var(--for), 0.19)",
    ]
    assert "http" not in content


def test_each_field_of_a_question_is_shown() -> None:
    """The words of a pair stand in their own text."""
    question = {"question": "When?", "context": "On Monday, not on Tuesday."}
    words = [word("When?", "When", 0.2, field="question"), word(question["context"], "Monday", 0.4, field="context")]
    explained = ExplainedScore(question, {"answer": "Monday"}, explanation(words, label="start"))
    reader = Reader(page("answers", [explained]))
    assert reader.texts == ["When?", "On Monday, not on Tuesday."]
    assert len(reader.styles) == 2


def explain(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder."""
    command = [sys.executable, str(ROOT / "scripts" / "explain.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=activated())


def test_without_a_server(model_folder: Path, tmp_path: Path) -> None:
    """A model folder, questions from a file, any label."""
    (tmp_path / "q.jsonl").write_text(json.dumps({"text": ODD, "text_pair": "no"}) + "\n", encoding="utf-8")
    done = explain("--local", model_folder, "--jsonl", "q.jsonl", "--target", "calm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Reader((tmp_path / "explanation.html").read_text(encoding="utf-8")).texts == [ODD, "no"]
    assert "calm" in done.stdout
    wrong = explain("--local", model_folder, "text", "--target", "nobody", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "target must be one of the labels: anger, joy, fear, calm" in wrong.stderr


@pytest.mark.server
def test_with_a_server(live: Live, tmp_path: Path) -> None:
    """A served model explains; the word that decides is the deepest."""
    own = ("--config", live.config, "--run-dir", live.run_dir)
    done = explain("intents", "I want my money back.", "--output", "why.html", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"refund_status .* money \+\d\.\d+", done.stdout)
    assert Reader((tmp_path / "why.html").read_text(encoding="utf-8")).texts == ["I want my money back."]
