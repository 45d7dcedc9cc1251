"""Every problem with a real model, tiny and random, on the data of the examples: the whole report of each."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from scripts.cli.console import ScriptError
from scripts.evaluation.data import BUILDERS
from scripts.evaluation.models import open_model
from scripts.evaluation.output import write as write_report
from scripts.evaluation.run import evaluate
from scripts.evaluation.settings import PROBLEMS, defaults
from tests.support.samples import MODELS, ROOT, MakeModel
from tests.support.training import write

EXAMPLES = ROOT / "examples"
INTENTS = (
    *("account_access", "cancel_order", "change_address", "payment_problem", "product_question", "refund_status"),
    *("return_item", "talk_to_human", "track_order", "warranty_claim"),
)
TOPICS = [{"text": "late and broken", "label": ["delivery", "quality"]}, {"text": "all fine", "label": []}] * 10
STARS = [{"text": f"bad {n}", "label": f"{n % 4}.5"} for n in range(12)]
SIMILAR = [{"text": f"my parcel {n}", "text_pair": "the parcel", "score": n / 12} for n in range(12)]

# problem: how its model is made, its data, whether the model is for it, the metrics of its report
CASES: dict[str, tuple[dict[str, Any], Path | list[dict[str, Any]], bool, set[str]]] = {
    "single": ({"labels": INTENTS}, EXAMPLES / "intents/test.csv", True, {"accuracy", "macro_f1", "nll", "brier"}),
    "multi": (
        {"labels": ("delivery", "quality"), "problem_type": "multi_label_classification"},
        TOPICS,
        True,
        {"micro_f1", "macro_f1", "subset_accuracy", "brier"},
    ),
    "regression": (
        {"labels": ("stars",), "problem_type": "regression"},
        STARS,
        True,
        {"mae", "rmse", "pearson", "spearman"},
    ),
    "entailment": (
        {"labels": ("contradiction", "neutral", "entailment")},
        EXAMPLES / "pairs/test.csv",
        True,
        {"accuracy", "macro_f1", "nll", "brier"},
    ),
    "ranking": (MODELS["rerank"], EXAMPLES / "ranking/test.csv", False, {"ndcg", "mrr", "first"}),
    "entities": (
        MODELS["token-classification"],
        EXAMPLES / "entities/test.conll",
        True,
        {"f1", "precision", "recall", "exact_texts"},
    ),
    "answers": (
        MODELS["question-answering"],
        EXAMPLES / "questions/test.json",
        True,
        {"exact_match", "f1", "answerability"},
    ),
    "masked-words": (
        MODELS["fill-mask"],
        EXAMPLES / "corpus/validation.txt",
        True,
        {"pseudo_perplexity", "probability"},
    ),
    "next-sentence": (
        MODELS["next-sentence-prediction"],
        EXAMPLES / "corpus/validation.txt",
        True,
        {"accuracy", "macro_f1", "nll", "brier"},
    ),
    "zero-shot": (
        MODELS["zero-shot-classification"],
        EXAMPLES / "intents/test.csv",
        False,
        {"accuracy", "macro_f1", "nll", "brier"},
    ),
    "retrieval": (MODELS["feature-extraction"], EXAMPLES / "ranking/test.csv", True, {"ndcg", "mrr", "first"}),
    "similarity": (MODELS["feature-extraction"], SIMILAR, True, {"spearman", "pearson"}),
}


def test_every_problem_has_a_case() -> None:
    """The options, the builders and the cases name the same problems."""
    assert set(PROBLEMS) == set(BUILDERS) == set(CASES)


@pytest.mark.parametrize("problem", CASES)
def test_a_report_has_every_section_of_its_problem(
    problem: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own task chooses the problem; every text is answered, and the page is written."""
    monkeypatch.setattr("scripts.evaluation.cost.MAX_SINGLE", 5)
    made, data, is_main, metrics = CASES[problem]
    file = data if isinstance(data, Path) else write(tmp_path / "data.jsonl", data)
    options: dict[str, Any] = {"pair_column": "text_pair", "label_column": "score"} if problem == "similarity" else {}
    settings = defaults(
        local=make_model(**made),
        data=file,
        output=tmp_path,
        limit=12,
        no_robustness=problem not in ("entities", "answers"),
        problem="auto" if is_main else problem,
        explain=2,
        **options,
    )
    with ExitStack() as stack:
        report, read = evaluate(settings, open_model(settings, stack), stack)
    write_report(tmp_path, report, read, with_text=False)
    assert report["task"]["problem"] == problem
    assert report["data"]["examples"] == report["data"]["of"] if report["data"]["of"] < 12 else 12
    assert report["unanswered"]["count"] == 0
    assert set(report["metrics"]) == metrics
    for name, described in report["metrics"].items():
        if described["value"] == described["value"]:  # a random model may predict no entity
            assert described["lower"] <= described["value"] <= described["upper"], name
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["cost"]["texts_per_second"] > 0
    assert (tmp_path / "report.html").read_text().count("<section") >= 5
    if problem in ("entities", "answers"):
        assert sum(row["changed_texts"] for row in report["robustness"]) > 0


def test_a_problem_that_the_model_does_not_serve_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """A classifier answers no questions; the message says what it serves."""
    settings = defaults(
        local=make_model(), data=EXAMPLES / "questions/test.json", output=tmp_path, problem="answers", limit=3
    )
    with (
        ExitStack() as stack,
        pytest.raises(ScriptError, match=r"does not serve question-answering; it serves .*text-classification"),
    ):
        evaluate(settings, open_model(settings, stack), stack)
