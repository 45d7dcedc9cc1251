"""The text boxes of each task: what a person types, as questions for the model.

A page has at most two boxes. Each line of the first one is a question of its own, unless the person says that the box
holds one text; what the second one is for depends on the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from handler.protocol import JSON
from scripts.cli.console import ScriptError


@dataclass(frozen=True)
class Box:
    """One text box: the field of a question, or the parameter, that it fills."""

    name: str
    label: str
    is_list: bool = False  # a line is an element of the field
    is_parameter: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class Form:
    """The boxes of one task."""

    task: str
    operation: str
    first: Box
    second: Box | None = None
    has_lines: bool = True  # whether a line of the first box may be a question of its own
    parameters: Mapping[str, JSON] = field(default_factory=dict)  # of every question

    def questions(self, first: str, second: str, *, each_line: bool) -> tuple[list[JSON], dict[str, JSON]]:
        """Return the questions that the boxes hold, and the parameters among them.

        Raises:
            ScriptError: a box is empty.
        """
        texts = lines(first) if each_line and self.has_lines and not self.first.is_list else [first.strip()]
        if not any(texts):
            raise ScriptError(f"nothing to ask: the box “{self.first.label}” is empty")
        if self.task == "sentence-similarity":
            return _every_pair(lines(first)), {}
        value = self._second(second)
        if value is None or self.second is None:
            return list(texts), dict(self.parameters)
        if self.second.is_parameter:
            return list(texts), {self.second.name: value}
        return [{self.first.name: text, self.second.name: value} for text in texts], {}

    def fill(self, example: JSON, parameters: Mapping[str, JSON]) -> tuple[str, str]:
        """Return what the boxes hold for one question, as `questions` would read it."""
        if self.task == "sentence-similarity":
            return "\n".join([example["source_sentence"], *example["sentences"]]), ""
        values = example if isinstance(example, Mapping) else {self.first.name: example}
        second = None
        if self.second is not None:
            second = (parameters if self.second.is_parameter else values).get(self.second.name)
        return _text(values.get(self.first.name)), _text(second)

    def _second(self, text: str) -> JSON:
        box = self.second
        if box is None or (not text.strip() and box.is_optional):
            return None
        if not text.strip():
            raise ScriptError(f"the box “{box.label}” is empty")
        return lines(text) if box.is_list else text.strip()


TEXT = Box("text", "Texts, one a line")
FORMS = {
    form.task: form
    for form in (
        Form("text-classification", "classify", TEXT, Box("text_pair", "Second text of a pair", is_optional=True)),
        Form("token-classification", "entities", TEXT),
        Form("question-answering", "answer", Box("question", "Questions, one a line"), Box("context", "Context")),
        Form("fill-mask", "fill", Box("text", "Texts with a mask, one a line")),
        Form(
            "next-sentence-prediction",
            "next-sentence",
            Box("text", "Sentence"),
            Box("next_sentence", "Does this one follow?"),
            has_lines=False,
        ),
        Form("feature-extraction", "embed", TEXT),
        Form("sparse-embedding", "embed-sparse", TEXT, parameters={"return_tokens": True}),
        Form("late-interaction", "embed-multi-vector", TEXT, parameters={"return_tokens": True}),
        Form("sentence-similarity", "similarity", Box("sentences", "Sentences, one a line: each with each other")),
        Form(
            "zero-shot-classification",
            "zero-shot",
            TEXT,
            Box("candidate_labels", "Labels, one a line", is_list=True, is_parameter=True),
        ),
        Form("rerank", "rerank", Box("query", "Queries, one a line"), Box("texts", "Texts, one a line", is_list=True)),
        Form("tokenize", "tokenize", TEXT),
    )
}


def lines(text: str) -> list[str]:
    """Return the lines of a box that are not blank.

    >>> lines("one\\n\\n  two ")
    ['one', 'two']
    """
    return [line.strip() for line in text.splitlines() if line.strip()]


def _every_pair(sentences: list[str]) -> list[JSON]:
    if len(sentences) < 2:
        raise ScriptError("similarities are between sentences: type two of them or more, one a line")
    return [{"source_sentence": sentence, "sentences": sentences} for sentence in sentences]


def _text(value: JSON) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")
