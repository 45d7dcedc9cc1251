"""The metrics of every evaluation task, against scikit-learn, scipy and seqeval."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score, ndcg_score

from scripts.cli.console import ScriptError
from scripts.evaluation.tasks import answers, classification, entities, masked_words, ranking
from scripts.evaluation.tasks.base import EvaluationTask, TextEdit, columns_of
from scripts.training.tasks.classification import LabelledText
from scripts.training.tasks.question_answering import QuestionExample

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("module", [answers, classification, entities, masked_words, ranking])
def test_examples_in_docstrings_are_true(module: Any) -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(module).failed == 0


def measured(task: EvaluationTask[Any], pairs: list[tuple[Any, list[Any]]]) -> dict[str, float]:
    """Return the metrics of examples with their answers."""
    return task.measure(columns_of([task.outcome(example, given) for example, given in pairs]))


def test_single_label_metrics_are_those_of_scikit_learn() -> None:
    """Accuracy, macro F1 over the labels that occur, and scores in any order."""
    labels = ["a", "b", "c", "never"]
    task = classification.SingleLabelEvaluation(labels)
    targets = GENERATOR.integers(0, 3, 200)
    scores = GENERATOR.dirichlet([1, 1, 1], 200)
    pairs: list[tuple[Any, list[Any]]] = [
        (
            LabelledText("x", None, int(target)),
            [[{"label": name, "score": float(p)} for name, p in zip("cba", row[::-1], strict=True)]],
        )
        for target, row in zip(targets, scores, strict=True)
    ]
    metrics = measured(task, pairs)
    predictions = scores.argmax(1)
    assert metrics["accuracy"] == pytest.approx((predictions == targets).mean())
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"))
    details = task.details([task.outcome(example, given) for example, given in pairs])
    assert np.trace(details["confusion"]["matrix"]) == (predictions == targets).sum()
    assert [row["label"] for row in details["labels"]] != ["never"]


def test_an_answer_with_a_strange_label_is_refused() -> None:
    """Labels that the model does not describe cannot be judged."""
    task = classification.SingleLabelEvaluation(["a", "b"])
    with pytest.raises(ScriptError, match="only labels of the model"):
        task.outcome(LabelledText("x", None, 0), [[{"label": "z", "score": 1.0}]])
    with pytest.raises(ScriptError, match="does --problem fit"):
        task.outcome(LabelledText("x", None, 0), [[0.1, 0.2]])


def test_multi_label_metrics_are_those_of_scikit_learn() -> None:
    """Micro and macro F1 and the share of texts with all labels right."""
    labels = ["a", "b", "c"]
    targets = (GENERATOR.random((100, 3)) < 0.4).astype(float)
    scores = np.clip(targets * 0.4 + GENERATOR.random((100, 3)) * 0.7, 0, 1)
    pairs = [
        (
            LabelledText("x", None, list(target)),
            [[{"label": n, "score": float(p)} for n, p in zip(labels, row, strict=True)]],
        )
        for target, row in zip(targets, scores, strict=True)
    ]
    metrics = measured(classification.MultiLabelEvaluation(labels), pairs)
    predictions = scores >= 0.5
    assert metrics["micro_f1"] == pytest.approx(f1_score(targets, predictions, average="micro"))
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert metrics["subset_accuracy"] == pytest.approx((predictions == targets).all(1).mean())


def test_regression_metrics_are_those_of_scipy() -> None:
    """Errors and both correlations, with equal targets."""
    targets = GENERATOR.integers(1, 6, 80).astype(float)
    predictions = targets + GENERATOR.normal(size=80)
    pairs = [
        (LabelledText("x", None, float(t)), [[{"label": "stars", "score": float(p)}]])
        for t, p in zip(targets, predictions, strict=True)
    ]
    task = classification.RegressionEvaluation(["stars"], 1, 5)
    metrics = measured(task, pairs)
    assert metrics["pearson"] == pytest.approx(pearsonr(targets, predictions).statistic)
    assert metrics["spearman"] == pytest.approx(spearmanr(targets, predictions).statistic)
    assert metrics["mae"] == pytest.approx(np.abs(predictions - targets).mean())
    assert task.outcome(LabelledText("x", None, 5.0), [[{"label": "stars", "score": 1.0}]]).score == 0


def test_ndcg_with_ties_is_that_of_scikit_learn() -> None:
    """Equal scores share the discounts of their places, also across the cutoff."""
    for _ in range(50):
        n = int(GENERATOR.integers(2, 15))
        grades = GENERATOR.integers(0, 3, n) / 2
        scores = GENERATOR.integers(0, 4, n).astype(float)
        if grades.max() > 0:
            expected = ndcg_score([grades], [scores], k=10)
            assert ranking.ndcg_with_ties(grades, scores) == pytest.approx(expected)


def test_reciprocal_rank_with_ties_is_the_mean_over_the_orders() -> None:
    """Against every order of equal scores, drawn at random."""
    relevant, scores = np.array([True, False, True, False, False]), np.array([0.5, 0.5, 0.5, 0.5, 0.9])
    drawn = []
    for _ in range(4000):
        order = GENERATOR.permutation(5)
        order = order[np.argsort(-scores[order], kind="stable")]
        drawn.append(1 / (1 + np.flatnonzero(relevant[order])[0]))
    assert ranking.expected_reciprocal_rank(relevant, scores) == pytest.approx(np.mean(drawn), abs=0.01)


def test_entity_metrics_are_those_of_seqeval_and_errors_are_told_apart() -> None:
    """Right, other type, other boundaries, missed and made up; strict F1 as of tags by character."""
    span = entities.EntitySpan
    texts = [
        ([span(0, 4, "PER"), span(8, 14, "LOC")], [span(0, 4, "PER"), span(8, 14, "PER")]),
        ([span(0, 10, "PER")], [span(0, 4, "PER")]),
        ([span(0, 3, "LOC")], []),
        ([], [span(5, 9, "PER")]),
        ([span(0, 4, "LOC"), span(6, 9, "LOC")], [span(6, 9, "LOC")]),
    ]
    task = entities.EntityEvaluation(["LOC", "PER"])
    text = "Anna lives in Graz since 1999."
    pairs: list[tuple[Any, list[Any]]] = [
        (
            entities.EntityText(text, tuple(targets)),
            [[{"entity_group": s.kind, "score": 0.9, "start": s.start, "end": s.end} for s in predicted]],
        )
        for targets, predicted in texts
    ]
    metrics = measured(task, pairs)

    def tags(spans: list[Any]) -> list[str]:
        """Return a tag for each character."""
        made = ["O"] * len(text)
        for s in spans:
            made[s.start : s.end] = [f"B-{s.kind}", *[f"I-{s.kind}"] * (s.end - s.start - 1)]
        return made

    expected = precision_recall_fscore_support(
        [tags(targets) for targets, _ in texts],
        [tags(predicted) for _, predicted in texts],
        average="micro",
        scheme=IOB2,
    )
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == pytest.approx(expected[:3])
    rows = {row["label"]: row for row in task.details([task.outcome(e, g) for e, g in pairs])["labels"]}
    total = {kind: sum(row[kind] for row in rows.values()) for kind in entities.KINDS}
    assert total == {"correct": 2, "wrong_type": 1, "wrong_boundary": 1, "wrong_both": 0, "missed": 2, "spurious": 1}


def test_entities_stay_where_they_are_when_their_text_is_edited() -> None:
    """A longer word before an entity moves it; a sentence before moves all; a cut text has other entities."""
    example = entities.EntityText(
        "Anna lives in Graz.", (entities.EntitySpan(0, 4, "PER"), entities.EntitySpan(14, 18, "LOC"))
    )
    task = entities.EntityEvaluation(["LOC", "PER"])
    edited = task.edited(example, TextEdit(lambda text: text.replace("lives", "is living").upper()))
    assert edited is not None
    assert [edited.text[s.start : s.end] for s in edited.entities] == ["ANNA", "GRAZ"]
    shifted = task.edited(example, TextEdit(lambda text: "Hello. " + text, "before"))
    assert shifted is not None
    assert [shifted.text[s.start : s.end] for s in shifted.entities] == ["Anna", "Graz"]
    assert task.edited(example, TextEdit(lambda text: text[:5], "end")) is None


def test_answers_are_judged_by_answerability() -> None:
    """A wrong "none" and a wrong answer are told apart; articles and case do not count."""
    context = "The warranty covers two years."
    task = answers.AnswerEvaluation((), may_be_none=True)
    some, none = QuestionExample("How long?", context, [(20, "two years")]), QuestionExample("Who?", context, [])
    right, empty = {"score": 0.9, "start": 20, "end": 29}, {"score": 0.8, "start": 0, "end": 0}
    pairs: list[tuple[Any, list[Any]]] = [(some, [right]), (some, [empty]), (none, [empty]), (none, [right])]
    assert measured(task, pairs) == {"exact_match": 0.5, "f1": 0.5, "answerability": 0.5}
    rows = task.details([task.outcome(e, g) for e, g in pairs])["labels"]
    assert [(row["label"], row["support"], row["answered"]) for row in rows] == [
        ("with an answer", 2, 0.5),
        ("without an answer", 2, 0.5),
    ]
    assert task.questions(some)[0].parameters == {"handle_impossible_answer": True}


def test_masked_words_give_the_pseudo_perplexity() -> None:
    """Each chosen word is masked alone; the perplexity is exp of the mean loss over all words."""
    task = masked_words.MaskedWordEvaluation("[MASK]")
    questions = task.questions("My parcel is late.")
    assert sorted(question.parameters["targets"][0] for question in questions) == ["My", "is", "late", "parcel"]
    assert all(str(question.item).count("[MASK]") == 1 for question in questions)
    outcome = task.outcome("x", [[{"score": 0.5}], [{"score": 0.125}]])
    assert task.measure(columns_of([outcome]))["pseudo_perplexity"] == pytest.approx(4)
    assert len(task.questions("word " * 50)) == masked_words.MAX_WORDS
