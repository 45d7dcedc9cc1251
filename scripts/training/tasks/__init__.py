"""The training tasks, by the names that --problem takes.

    base.py                      the base class
    classification.py            single, multi, regression, entailment: labels or a number for a text or a pair
    conll.py                     texts with tagged words: CoNLL, lists of tokens, spans by character
    token_classification.py      entities
    squad.py                     the metrics of SQuAD
    question_answering.py        answers: the part of a context that answers a question
    ranking.py                   ranking: the relevance of a text to a query
    masking.py                   masking of tokens or whole words, and its metrics
    masked_language_modeling.py  masked-words
    next_sentence.py             next-sentence, pretraining: BERT's second objective, alone or with the first

The registry is at the bottom. A new task is a class, a line there and an example in the help of scripts/train.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES, Reader
from scripts.readers.tables import ColumnMapping, Table
from scripts.training.tasks.base import TrainingTask
from scripts.training.tasks.classification import (
    ENTAILMENT,
    Entailment,
    MultiLabelClassification,
    Regression,
    SingleLabelClassification,
    is_float,
    number,
)
from scripts.training.tasks.conll import CONLL, span_of
from scripts.training.tasks.masked_language_modeling import MaskedLanguageModeling
from scripts.training.tasks.next_sentence import BertPretraining, NextSentenceTraining
from scripts.training.tasks.question_answering import AnswerExtraction
from scripts.training.tasks.ranking import Ranking
from scripts.training.tasks.token_classification import EntityRecognition


def readers(kind: str, path: Path) -> Mapping[str, Reader]:
    """Return the readers for the files of a task; for "auto", those of suffixes that only one task can mean."""
    if kind != "auto":
        return TRAINING_TASKS[kind].readers
    unambiguous = TABLES | {suffix: TRAINING_TASKS[name].readers[suffix] for suffix, name in KIND_BY_SUFFIX.items()}
    suffix = path.suffix.lower()
    if suffix not in unambiguous:
        kinds = [name for name, task in TRAINING_TASKS.items() if suffix in task.readers]
        if kinds:
            raise ScriptError(f"{path}: say what it is for: --problem {' or '.join(kinds)}")
    return unambiguous


def guess(table: Table, columns: ColumnMapping) -> str:
    """Return the name of the task that a table's columns and labels suggest.

    Tokens with tags, or texts with spans [start, end, label]: entities. Questions with contexts and answers: answers.
    A premise and a hypothesis with the labels of entailment: entailment. A query and a text with numbers from 0 to 1:
    ranking. Several label columns, a separator or lists: multi. Numbers of which one has a fraction: regression, which
    refuses those that are not finite. Else single.
    """
    header = set(table.header)
    for required, kind in KIND_BY_COLUMNS:
        if required <= header and required.issuperset(columns.labels):
            return kind
    label = next((name for name in columns.labels or LABEL_COLUMNS if name in header), "label")
    cells = [record.get(label) for _, record in table.rows]
    spans = [span_of(item) for cell in cells if isinstance(cell, list) for item in cell]
    if spans and all(spans):
        return "entities"
    if len(columns.labels) > 1 or columns.separator or any(isinstance(cell, list) for cell in cells):
        return "multi"
    if {"premise", "hypothesis"} <= header and all(cell in ENTAILMENT for cell in cells):
        return "entailment"
    values = [number(str(cell)) for cell in cells]
    default_columns = (columns.text, columns.pair) == ("text", None)
    if {"query", "text"} <= header and default_columns and all(v is not None and 0 <= v <= 1 for v in values):
        return "ranking"
    has_fraction = any(value is not None and value % 1 for value in values)
    return "regression" if has_fraction and all(is_float(str(cell)) for cell in cells) else "single"


TRAINING_TASKS: dict[str, type[TrainingTask[Any]]] = {
    "single": SingleLabelClassification,
    "multi": MultiLabelClassification,
    "regression": Regression,
    "entailment": Entailment,
    "ranking": Ranking,
    "entities": EntityRecognition,
    "answers": AnswerExtraction,
    "masked-words": MaskedLanguageModeling,
    "next-sentence": NextSentenceTraining,
    "pretraining": BertPretraining,
}
LABEL_COLUMNS = ("label", "labels", "relevance", "score")
LIST_COLUMNS = ("tokens", "words", *EntityRecognition.label_columns)  # may hold lists that a CSV writes as text
KIND_BY_SUFFIX: dict[str, str] = dict.fromkeys(CONLL, "entities")
KIND_BY_COLUMNS: list[tuple[set[str], str]] = [
    ({"tokens", "tags"}, "entities"),
    ({"tokens", "ner_tags"}, "entities"),
    ({"text", "entities"}, "entities"),
    ({"question", "context", "answers"}, "answers"),
]
