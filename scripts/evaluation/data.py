"""The examples of an evaluation: a file as scripts/train.py reads it, and the task that judges a model on it.

The model says which labels there are; a label of the data that it does not know is refused by row, or, named by
--out-of-scope-label, marks texts that it should not answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from handler.tag_scheme import LabelSpans
from scripts.cli.console import ScriptError
from scripts.evaluation.tasks.answers import AnswerEvaluation
from scripts.evaluation.tasks.base import EvaluationTask, Located
from scripts.evaluation.tasks.classification import (
    MultiLabelEvaluation,
    NextSentenceEvaluation,
    RegressionEvaluation,
    SimilarityEvaluation,
    SingleLabelEvaluation,
    ZeroShotEvaluation,
)
from scripts.evaluation.tasks.entities import EntityEvaluation, EntityText
from scripts.evaluation.tasks.masked_words import MaskedWordEvaluation
from scripts.evaluation.tasks.ranking import RankingEvaluation, RetrievalEvaluation, by_query
from scripts.readers import hub, tables
from scripts.readers.tables import ColumnMapping, Table
from scripts.training import tasks as training
from scripts.training.settings import default_column, split_names
from scripts.training.tasks.base import TrainingTask
from scripts.training.tasks.classification import (
    Entailment,
    LabelledText,
    MultiLabelClassification,
    Regression,
    SingleLabelClassification,
)
from scripts.training.tasks.masked_language_modeling import MaskedLanguageModeling
from scripts.training.tasks.next_sentence import NextSentenceTraining, pairs
from scripts.training.tasks.question_answering import AnswerExtraction
from scripts.training.tasks.ranking import Ranking
from scripts.training.tasks.token_classification import EntityRecognition

NEXT_LABELS = ("is_next", "not_next")


@dataclass(frozen=True)
class EvaluationData:
    """A task and its examples, with the columns that are neither text nor label."""

    name: str
    sha256: str
    problem: str
    task: EvaluationTask[Any]
    examples: list[Located[Any]]
    used_columns: frozenset[str]
    out_of_scope: list[Located[Any]] = field(default_factory=list)  # texts that no label fits


def read(
    arguments: argparse.Namespace,
    description: Mapping[str, JSON],
    mask: Callable[[], str],
    file: Path | None = None,
    task: EvaluationTask[Any] | None = None,
) -> EvaluationData:
    """Read the examples of `file` (by default --data) for the model of a description.

    `mask` returns the model's mask token; `task` judges a second file as the first one was judged.
    """
    problem = arguments.problem if arguments.problem != "auto" else None
    table = table_of(arguments, file, problem or problem_of(description, ()))
    problem = problem or problem_of(description, table.header)
    builder = BUILDERS[problem]
    columns = columns_for(builder.training_task, arguments, table.header)
    table = tables.parse_list_cells(table, {*training.LIST_COLUMNS, *columns.labels})
    table.require(columns)
    table, outside = without_label(table, columns, arguments.out_of_scope_label)
    table.require(columns)
    made, examples = builder.build(table, columns, description, mask)
    used = {columns.text, columns.pair, *columns.labels} - {None}
    outside_examples = [
        Located(row, LabelledText(table.text(row, record, columns.text), None, 0), record) for row, record in outside
    ]
    return EvaluationData(
        table.name, table.sha256, problem, task or made, examples, frozenset(map(str, used)), outside_examples
    )


def table_of(arguments: argparse.Namespace, file: Path | None, problem: str) -> Table:
    """Return the table of the file or the dataset's split that the arguments name."""
    kind = problem if problem in training.TRAINING_TASKS else "single"
    if file is None and arguments.dataset:
        splits = hub.read_dataset(
            arguments.dataset, arguments.dataset_config, lambda path: training.readers(kind, path)
        )
        if arguments.split not in splits:
            raise ScriptError(f"dataset {arguments.dataset}: no split {arguments.split}; it has {', '.join(splits)}")
        return splits[arguments.split]
    path = file or arguments.data
    return tables.read(path, training.readers(kind, path))


def problem_of(description: Mapping[str, JSON], header: tuple[str, ...]) -> str:
    """Return the name of the task that evaluates what a model is for; `header` decides where there are two."""
    task, kind = description["task"], description.get("problem_type")
    if task == "text-classification":
        if kind == "regression":
            return "regression"
        if kind == "multi_label_classification":
            return "ranking" if len(description["labels"]) == 1 and "query" in header else "multi"
        return "entailment" if {"premise", "hypothesis"} <= set(header) else "single"
    if task in ("feature-extraction", "sparse-embedding", "late-interaction", "sentence-similarity"):
        return "retrieval" if {"query", "question"} & set(header) else "similarity"
    for problem, builder in BUILDERS.items():
        if builder.evaluation.served_as == task:
            return problem
    raise ScriptError(f"a model of {task} has no labels to be held against: name another use of it with --problem")


def columns_for(task: type[TrainingTask[Any]], arguments: argparse.Namespace, header: tuple[str, ...]) -> ColumnMapping:
    """Return the columns that the options name, else those that the training task takes by default."""
    labels = split_names(arguments.label_columns)
    label = arguments.label_column or default_column(task.label_columns, header)
    return ColumnMapping(
        arguments.text_column or default_column(task.text_columns, header) or "text",
        arguments.pair_column or default_column(task.pair_columns, header),
        labels or ((label,) if label else ()),
        arguments.label_separator,
        split_names(arguments.label_names),
    )


def without_label(table: Table, columns: ColumnMapping, label: str | None) -> tuple[Table, list[tuple[int, Any]]]:
    """Return the table without the rows of a label, and these rows."""
    if label is None:
        return table, []
    (column,) = columns.labels
    outside = [(row, record) for row, record in table.rows if tables.label_name(record.get(column)) == label]
    if not outside:
        raise ScriptError(f"{table.name}, column {column}: no row has the label of --out-of-scope-label")
    rows = {row for row, _ in outside}
    return replace(table, rows=tuple(item for item in table.rows if item[0] not in rows)), outside


# --- one builder for each problem ------------------------------------------------------------------------------------

Built = tuple[EvaluationTask[Any], list[Located[Any]]]
Mask = Callable[[], str]


@dataclass(frozen=True)
class ProblemBuilder:
    """The training task whose files are read, the evaluation task, and the function that makes both."""

    training_task: type[TrainingTask[Any]]
    evaluation: type[EvaluationTask[Any]]
    build: Callable[[Table, ColumnMapping, Mapping[str, JSON], Mask], Built]


def located(task: TrainingTask[Any], table: Table) -> list[Located[Any]]:
    """Return the examples of a table whose rows are examples one by one."""
    return [Located(row, task.example(table, row, record), record) for row, record in table.rows]


def single(table: Table, columns: ColumnMapping, description: Mapping[str, JSON], _: Mask) -> Built:
    labels = description["labels"]
    return SingleLabelEvaluation(labels), located(SingleLabelClassification(labels, columns), table)


def zero_shot(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], __: Mask) -> Built:
    task = SingleLabelClassification.from_table(table, columns)
    return ZeroShotEvaluation(task.labels), located(task, table)


def multi(table: Table, columns: ColumnMapping, description: Mapping[str, JSON], _: Mask) -> Built:
    labels = description["labels"]
    if len(columns.labels) > 1:
        if set(columns.labels) != set(labels):
            raise ScriptError(f"--label-columns must be the labels of the model: {', '.join(labels)}")
        columns = replace(columns, labels=tuple(labels))
    if columns.label_names and list(columns.label_names) != list(labels):
        raise ScriptError(f"--label-names must be the labels of the model in their order: {', '.join(labels)}")
    return MultiLabelEvaluation(labels), located(MultiLabelClassification(labels, columns), table)


def numbers(kind: type[RegressionEvaluation]) -> Callable[[Table, ColumnMapping, Mapping[str, JSON], Mask], Built]:
    def build(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], __: Mask) -> Built:
        examples = located(Regression(columns.labels, columns), table)
        targets = [item.example.target for item in examples]
        return kind(columns.labels, min(targets), max(targets)), examples

    return build


def ranked(kind: type[RankingEvaluation]) -> Callable[[Table, ColumnMapping, Mapping[str, JSON], Mask], Built]:
    def build(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], __: Mask) -> Built:
        rows = located(Ranking(("relevance",), columns), table)
        records = {item.row: item.record for item in rows}
        queries = by_query([(item.row, item.example) for item in rows])
        if not queries:
            raise ScriptError(f"{table.name}: no query has a relevant text")
        return kind(()), [Located(row, query, records[row]) for row, query in queries]

    return build


def entities(table: Table, columns: ColumnMapping, description: Mapping[str, JSON], _: Mask) -> Built:
    task = EntityRecognition.from_table(table, columns)
    examples = [replace(item, example=EntityText.from_tags(item.example, task.spans)) for item in located(task, table)]
    types = {*task.spans.groups, *LabelSpans.from_labels(description["labels"]).groups} - {"O"}
    return EntityEvaluation(sorted(types)), examples


def answers(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], __: Mask) -> Built:
    task = AnswerExtraction.from_table(table, columns)
    return AnswerEvaluation((), may_be_none=task.may_be_none), located(task, table)


def masked_words(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], mask: Mask) -> Built:
    task = MaskedWordEvaluation(mask())
    examples = located(MaskedLanguageModeling((), columns), without_blank(table, columns))
    return task, [item for item in examples if task.questions(item.example)]


def next_sentence(table: Table, columns: ColumnMapping, _: Mapping[str, JSON], __: Mask) -> Built:
    documents = NextSentenceTraining((), columns)
    examples = documents.examples(table)
    documents.validate(examples)
    rows: dict[object, int] = {}
    for row, record in without_blank(table, columns).rows:
        rows.setdefault(record.get(columns.text), row)
    return NextSentenceEvaluation(NEXT_LABELS), [
        Located(rows[first], LabelledText(first, second, label)) for first, second, label in pairs(examples.rows, 0)
    ]


def without_blank(table: Table, columns: ColumnMapping) -> Table:
    """Return a table of lines without the blank ones, which part documents."""
    return replace(table, rows=tuple(item for item in table.rows if item[1].get(columns.text) != ""))


BUILDERS: dict[str, ProblemBuilder] = {
    "single": ProblemBuilder(SingleLabelClassification, SingleLabelEvaluation, single),
    "multi": ProblemBuilder(MultiLabelClassification, MultiLabelEvaluation, multi),
    "regression": ProblemBuilder(Regression, RegressionEvaluation, numbers(RegressionEvaluation)),
    "entailment": ProblemBuilder(Entailment, SingleLabelEvaluation, single),
    "ranking": ProblemBuilder(Ranking, RankingEvaluation, ranked(RankingEvaluation)),
    "entities": ProblemBuilder(EntityRecognition, EntityEvaluation, entities),
    "answers": ProblemBuilder(AnswerExtraction, AnswerEvaluation, answers),
    "masked-words": ProblemBuilder(MaskedLanguageModeling, MaskedWordEvaluation, masked_words),
    "next-sentence": ProblemBuilder(NextSentenceTraining, NextSentenceEvaluation, next_sentence),
    "zero-shot": ProblemBuilder(SingleLabelClassification, ZeroShotEvaluation, zero_shot),
    "retrieval": ProblemBuilder(Ranking, RetrievalEvaluation, ranked(RetrievalEvaluation)),
    "similarity": ProblemBuilder(Regression, SimilarityEvaluation, numbers(SimilarityEvaluation)),
}
