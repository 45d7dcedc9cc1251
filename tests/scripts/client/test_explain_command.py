"""scripts/explain.py: a page that holds the whole text, its words coloured, and nothing that leaves the browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts import explain
from scripts.client.explanation_page import ExplainedScore, page
from tests.support.command import run_here
from tests.support.explanations import PageReader

ODD = 'The <script>alert(1)</script> & "screen" is\n black, it\'s 屏幕 👍'


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
    reader = PageReader(content)
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
    reader = PageReader(page("answers", [explained]))
    assert reader.texts == ["When?", "On Monday, not on Tuesday."]
    assert len(reader.styles) == 2


def test_without_a_server(model_folder: Path, tmp_path: Path) -> None:
    """A model folder, questions from a file, any label."""
    (tmp_path / "q.jsonl").write_text(json.dumps({"text": ODD, "text_pair": "no"}) + "\n", encoding="utf-8")
    local = ("--local", model_folder)
    done = run_here(explain.main, *local, "--jsonl", "q.jsonl", "--target", "calm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert PageReader((tmp_path / "explanation.html").read_text(encoding="utf-8")).texts == [ODD, "no"]
    assert "calm" in done.stdout
    before = (tmp_path / "q.jsonl").read_bytes()
    same = run_here(explain.main, *local, "--jsonl", "q.jsonl", "--output", "q.jsonl", cwd=tmp_path)
    assert (same.returncode, (tmp_path / "q.jsonl").read_bytes()) == (2, before)
    assert "q.jsonl is read, and would be overwritten" in same.stderr
    wrong = run_here(explain.main, *local, "text", "--target", "nobody", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "target must be one of the labels: anger, joy, fear, calm" in wrong.stderr
