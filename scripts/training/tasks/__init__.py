"""The kinds of problems that a model can be trained for.

    base.py             what every kind has
    classification.py   single, multi, regression, entailment: one answer about a text or a pair
    tagged.py           texts whose words have tags, and the forms of such data
    entities.py         entities: spans of words in a text
    squad.py            the form of SQuAD's files, and its two metrics
    answers.py          answers: the part of a context that answers a question
    ranking.py          ranking: how relevant a text is to a query
    masking.py          hiding words, and how well they are guessed
    masked_words.py     masked-words: hidden words
    next_sentence.py    next-sentence, pretraining: whether one sentence follows another, alone or with hidden words

The registry is at the bottom. A new kind is a class, a line there and an example in the help of scripts/train.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError
from scripts.readers.tables import TABLES, Columns, Reader, Table
from scripts.training.tasks.base import Problem
from scripts.training.tasks.classification import ENTAILMENT, Entailment, MultiLabel, Regression, SingleLabel, number
from scripts.training.tasks.conll import CONLL
from scripts.training.tasks.masked_language_modeling import MaskedWords
from scripts.training.tasks.next_sentence import NextSentence, Pretraining
from scripts.training.tasks.question_answering import Answers
from scripts.training.tasks.ranking import Ranking
from scripts.training.tasks.token_classification import Entities


def readers(kind: str, path: Path) -> Mapping[str, Reader]:
    """Return what reads the files of a kind of problem; where the kind is open, the end of a name may tell it."""
    if kind != "auto":
        return PROBLEMS[kind].readers
    telling = TABLES | {end: PROBLEMS[told].readers[end] for end, told in TOLD_BY_NAME.items()}
    if path.suffix.lower() not in telling:
        kinds = [kind for kind, problem in PROBLEMS.items() if path.suffix.lower() in problem.readers]
        if kinds:
            raise ScriptError(f"{path}: say what it is for: --problem {' or '.join(kinds)}")
    return telling


def guess(table: Table, columns: Columns) -> str:
    """Name the kind of problem that a table poses.

    Tokens with tags, or texts with spans: entities. Questions with contexts and answers: answers. A premise and a
    hypothesis with the labels of entailment: entailment. A query and a text with numbers from 0 to 1: ranking. Several
    label columns, a separator or lists: multi. Numbers of which one has a fraction: regression. Else single.
    """
    header = set(table.header)
    for needed, kind in TOLD_BY_COLUMNS:
        if needed <= header and needed.issuperset(columns.labels):
            return kind
    label = next((name for name in columns.labels or Ranking.label_columns if name in header), "label")
    cells = [record.get(label) for _, record in table.rows]
    if len(columns.labels) > 1 or columns.separator or any(isinstance(cell, list) for cell in cells):
        return "multi"
    if {"premise", "hypothesis"} <= header and all(cell in ENTAILMENT for cell in cells):
        return "entailment"
    values = [number(str(cell)) for cell in cells]
    open_columns = (columns.text, columns.pair) == ("text", None)
    if {"query", "text"} <= header and open_columns and all(v is not None and 0 <= v <= 1 for v in values):
        return "ranking"
    fractions = all(value is not None for value in values) and any(v is not None and v % 1 for v in values)
    return "regression" if fractions else "single"


PROBLEMS: dict[str, type[Problem[Any]]] = {
    "single": SingleLabel,
    "multi": MultiLabel,
    "regression": Regression,
    "entailment": Entailment,
    "ranking": Ranking,
    "entities": Entities,
    "answers": Answers,
    "masked-words": MaskedWords,
    "next-sentence": NextSentence,
    "pretraining": Pretraining,
}
TOLD_BY_NAME: dict[str, str] = {".json": "answers", **dict.fromkeys(CONLL, "entities")}  # the end of a file's name
TOLD_BY_COLUMNS: list[tuple[set[str], str]] = [
    ({"tokens", "tags"}, "entities"),
    ({"tokens", "ner_tags"}, "entities"),
    ({"text", "entities"}, "entities"),
    ({"question", "context", "answers"}, "answers"),
]
