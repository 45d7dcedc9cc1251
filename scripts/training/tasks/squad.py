"""The format of SQuAD's files, and its two metrics.

Source: Rajpurkar et al. 2016 (SQuAD 1.1) and 2018 (2.0, with questions that the context does not answer). A row
is a question; questions are numbered through the file from 1.
"""

from __future__ import annotations

import io
import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from scripts.cli.console import ScriptError
from scripts.readers.formats import Record, decode_lines, read_json

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def read_squad(name: str, file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the questions of a file, each with its context and its answers in the columns of the hub's datasets.

    A JSON file of another form than SQuAD's is read as a list of records.
    """
    content = "".join(decode_lines(name, file))
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not (isinstance(value, dict) and "data" in value):
        yield from read_json(name, io.BytesIO(content.encode("utf-8", "surrogatepass")))
        return
    try:
        articles = value["data"]
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


def normalised(answer: str) -> str:
    """Return an answer without case, punctuation, articles and repeated spaces, as the metrics compare it.

    >>> normalised("The  U.S.  Army")
    'us army'
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, target: str) -> float:
    """Return 1.0 for equal normalised answers, else 0.0."""
    return float(normalised(answer) == normalised(target))


def f1(answer: str, target: str) -> float:
    """Return the F1 over the words of two answers; an empty answer equals only an empty one.

    >>> f1("the old town of Rome", "Old Town"), f1("", "Rome"), f1("", "")
    (0.6666666666666666, 0.0, 1.0)
    """
    answer_words, target_words = normalised(answer).split(), normalised(target).split()
    if not answer_words or not target_words:
        return float(answer_words == target_words)
    n_shared = sum((Counter(answer_words) & Counter(target_words)).values())
    return 2 * n_shared / (len(answer_words) + len(target_words))


def squad_metrics(targets: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, float]:
    """Return the means over the questions, each against its best target; without targets, "" is the right answer."""
    nonempty = [[target for target in alternatives if normalised(target)] or [""] for alternatives in targets]
    pairs = list(zip(answers, nonempty, strict=True))
    return {
        key: sum(max(metric(answer, target) for target in alternatives) for answer, alternatives in pairs) / len(pairs)
        for key, metric in {"exact_match": exact_match, "f1": f1}.items()
    }
