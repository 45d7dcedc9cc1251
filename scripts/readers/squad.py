"""Files in the form of SQuAD: articles of paragraphs of questions, each with its answers, as records.

Source: Rajpurkar et al. 2016 (SQuAD 1.1) and 2018 (2.0, with questions that the context does not answer). A row
is a question; questions are numbered through the file from 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scripts.cli.console import ScriptError


def is_articles(items: Sequence[Any]) -> bool:
    """Return whether the list under `data` holds articles, in SQuAD's form or nearly so."""
    return bool(items) and any(isinstance(item, dict) and "paragraphs" in item for item in items)


def read_articles(name: str, articles: Sequence[Any]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield each question with its context and its answers, in the columns of the hub's datasets."""
    try:
        questions = [
            (article.get("title"), paragraph["context"], question)
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise ScriptError(f"{name}: not in SQuAD's form: data, paragraphs, context, qas") from None
    for row, (title, context, question) in enumerate(questions, start=1):
        if not isinstance(question, dict):
            raise ScriptError(f"{name} row {row}: the question is not a JSON object")
        answers = [] if question.get("is_impossible") else question.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            raise ScriptError(f"{name} row {row}: the answers are not a list of JSON objects")
        if not answers and not question.get("is_impossible"):
            raise ScriptError(f"{name} row {row}: no answer, although is_impossible is not true")
        columns = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
        yield row, {"title": title, "context": context, "question": question.get("question"), "answers": columns}
