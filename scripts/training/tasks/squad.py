"""The form of SQuAD's files, and its two metrics.

Source: Rajpurkar et al. 2016 (SQuAD 1.1) and 2018 (2.0, with questions that the context does not answer). A question
is a row, counted through the file from 1.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

from scripts.cli.console import ScriptError
from scripts.readers.tables import Record

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def read_squad(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the questions of a file, each with its context and its answers as the hub's datasets have them."""
    try:
        articles = json.loads(content)["data"]
        asked = [
            (article.get("title"), paragraph["context"], question)
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ScriptError(f"{name}: not in SQuAD's form: data, paragraphs, context, qas") from None
    for row, (title, context, question) in enumerate(asked, start=1):
        if not isinstance(question, dict):
            raise ScriptError(f"{name} row {row}: the question is not a JSON object")
        answers = [] if question.get("is_impossible") else question.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
            raise ScriptError(f"{name} row {row}: the answers are not a list of JSON objects")
        if not answers and not question.get("is_impossible"):
            raise ScriptError(f"{name} row {row}: no answer, although is_impossible is not true")
        texts, starts = ([answer.get(key) for answer in answers] for key in ("text", "answer_start"))
        answered = {"text": texts, "answer_start": starts}
        yield row, {"title": title, "context": context, "question": question.get("question"), "answers": answered}


def normalised(answer: str) -> str:
    """Return an answer without what the metrics ignore: case, punctuation, articles, surplus blanks.

    >>> normalised("The  U.S.  Army")
    'us army'
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, target: str) -> float:
    """Return 1 for the same answer, else 0."""
    return float(normalised(answer) == normalised(target))


def f1(answer: str, target: str) -> float:
    """Return the F1 of the words that two answers share; no answer equals only no answer.

    >>> f1("the old town of Rome", "Old Town"), f1("", "Rome"), f1("", "")
    (0.6666666666666666, 0.0, 1.0)
    """
    found, wanted = normalised(answer).split(), normalised(target).split()
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def measure(targets: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, float]:
    """Return the means over the questions, each against the best of its targets; without any, no answer is right."""
    wanted = [[target for target in given if normalised(target)] or [""] for given in targets]
    pairs = list(zip(answers, wanted, strict=True))
    return {
        key: sum(max(metric(answer, target) for target in given) for answer, given in pairs) / len(pairs)
        for key, metric in {"exact_match": exact_match, "f1": f1}.items()
    }
