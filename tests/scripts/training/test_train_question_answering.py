"""Training for answers: SQuAD's files and metrics, windows, spans, and a model that finds who and where."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from scripts.cli.console import ScriptError
from scripts.readers import hub, tables
from scripts.readers.tables import ColumnMapping
from scripts.training import splits, tasks
from scripts.training.tasks.base import Examples, TokenLimits
from scripts.training.tasks.question_answering import AnswerExtraction, ContextWindow, QuestionExample, best_span
from scripts.training.tasks.squad import f1, normalised, squad_metrics
from tests.support.training import Row, fit, fit_interrupted, refusal, tiny, weights

PEOPLE = ["ann", "bob stone", "carla"]
PLACES = ["rome", "new york", "oslo"]
FILLER = ["we", "met", "in", "old", "town", "today", "and", "then", "."]
COLUMNS = ColumnMapping("question", "context", ("answers",))
SECRET = "secret"


def squad(n: int, seed: int = 0, longest: int = 12, *, unanswered: bool = True) -> Row:
    """Write contexts with a person and a place, two questions about each; some contexts have no place."""
    generator = random.Random(seed)  # noqa: S311 sentences, not secrets
    paragraphs = []
    for number in range(n):
        parts = generator.choices(FILLER, k=generator.randint(3, longest))
        person, place = generator.choice(PEOPLE), generator.choice(PLACES)
        nowhere = unanswered and number % 4 == 0
        for name in (person,) if nowhere else (person, place):
            parts.insert(generator.randint(0, len(parts)), name)
        context = f"{number} {' '.join(parts)}"
        questions = []
        for question, name in (("who was it ?", person), ("where was it ?", place)):
            answers = [] if nowhere and name == place else [{"text": name, "answer_start": context.index(name)}]
            questions.append(
                {"id": f"{number}", "question": question, "answers": answers, "is_impossible": not answers}
            )
        paragraphs.append({"context": context, "qas": questions})
    return {"version": "v2.0", "data": [{"title": "meetings", "paragraphs": paragraphs}]}


def save(path: Path, content: Row) -> Path:
    """Write a SQuAD file."""
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows the words."""
    words = [*FILLER, *" ".join([*PEOPLE, *PLACES]).split(), "who", "where", "was", "it", "?"]
    return tiny(tmp_path_factory.mktemp("models") / "base", words)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Row]:
    """A model that was trained on contexts of which some take several windows."""
    folder = tmp_path_factory.mktemp("meetings")
    train, test = save(folder / "train.json", squad(150, longest=30)), save(folder / "test.json", squad(24, 1, 30))
    options = ("--max-length", 24, "--doc-stride", 8, "--epochs", 7, "--validation-split", 0.15)
    return folder / "out", fit(base, folder / "out", "--train", train, "--test", test, *options)


@pytest.mark.slow
def test_a_model_learns_to_answer(trained: tuple[Path, Row]) -> None:
    output, record = trained
    assert record["problem"] == "answers"
    assert record["epochs"][0]["f1"] < record["validation"]["f1"]
    assert record["test"]["exact_match"] > 0.8
    assert record["data"]["test"]["labels"] == {"answered": 42, "unanswered": 6}
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(output).eval()
    context = "we met carla in old town and then in new york ."
    for question, answer in (("who was it ?", "carla"), ("where was it ?", "new york")):
        encoding = tokenizer(question, context, return_tensors="pt")
        with torch.inference_mode():
            scores = model(**encoding)
        first, last = int(scores.start_logits.argmax()), int(scores.end_logits.argmax())
        assert tokenizer.decode(encoding["input_ids"][0, first : last + 1]) == answer


@pytest.mark.slow
def test_a_classifier_is_a_base_model_too(base: Path, tmp_path: Path) -> None:
    """Its config has as many labels as it had; an answer has a start and an end."""
    config = transformers.AutoConfig.from_pretrained(base, num_labels=5)
    transformers.AutoModelForSequenceClassification.from_pretrained(base, config=config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    fit(tmp_path, tmp_path / "out", "--train", save(tmp_path / "train.json", squad(20)), "--epochs", 1)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_labels == 2


@pytest.mark.slow
def test_an_interrupted_training_goes_on(base: Path, tmp_path: Path) -> None:
    options = ("--train", save(tmp_path / "train.json", squad(20)), "--epochs", 2)
    fit(base, tmp_path / "uninterrupted", *options)
    fit_interrupted(base, tmp_path / "parts", *options, epoch=2)
    fit(base, tmp_path / "parts", *options, "--resume")
    assert weights(tmp_path / "parts") == weights(tmp_path / "uninterrupted")


def test_contexts_stay_together(tmp_path: Path) -> None:
    read = tables.read(save(tmp_path / "a.json", squad(20)), AnswerExtraction.readers)
    assert tasks.guess(read, ColumnMapping("text", None, ())) == "answers"
    task = AnswerExtraction.from_table(read, COLUMNS)
    assert task.may_be_none
    kept, held = splits.split(task, task.examples(read), 0.2, seed=1)
    assert len(held) == 8
    assert not {row.context for row in kept.rows} & {row.context for row in held.rows}


def test_a_hub_dataset_has_the_same_questions(tmp_path: Path) -> None:
    import datasets

    read = tables.read(save(tmp_path / "a.json", squad(4)), AnswerExtraction.readers)
    answers = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
    kinds = datasets.Features(
        {"question": datasets.Value("string"), "context": datasets.Value("string"), "answers": answers}
    )
    columns = {name: [record[name] for _, record in read.rows] for name in kinds}
    dataset = hub.to_table("squad[train]", datasets.Dataset.from_dict(columns, features=kinds))
    assert dataset.has_labels(COLUMNS)
    task = AnswerExtraction.from_table(dataset, COLUMNS)
    assert task.examples(dataset).rows == task.examples(read).rows


# --- the metrics ---------------------------------------------------------------------------------------------------


def test_answers_are_compared_as_published() -> None:
    assert normalised("The  Cat's an (animal), a pet!") == "cats animal pet"
    assert f1("in the old town", "old town hall") == pytest.approx(2 * 2 / (3 + 3))
    assert f1("rome rome", "rome") == pytest.approx(2 * 1 / (2 + 1))
    metrics = squad_metrics([["Rome", "the city of Rome"], [], ["1999"], ["the"]], ["city, Rome", "", "", "a"])
    # city rome / city of rome: 2 * 2 / (2 + 3); no answer is right twice, and wrong once
    assert metrics == pytest.approx({"exact_match": 2 / 4, "f1": (0.8 + 1 + 0 + 1) / 4})


def test_a_span_lies_in_the_context_and_is_short_enough() -> None:
    window = ContextWindow(0, 2, [(0, 1), (2, 3), (4, 5), (6, 7)])
    starts, ends = np.array([9, 9, 0, 5, 0, 1, 9.0]), np.array([9, 9, 4, 0, 0, 6, 9.0])
    assert best_span(starts, ends, window, 3) == (11.0, 2, 7)
    assert best_span(starts, ends, window, 2) == (7.0, 6, 7)  # not from 2 to 7, not backwards, not outside


def test_no_answer_wins_only_where_every_window_says_so() -> None:
    rows = [QuestionExample("q", "abcd", [])]
    windows = [ContextWindow(0, 1, [(0, 1), (1, 2)]), ContextWindow(0, 1, [(2, 3), (3, 4)])]
    ends = np.zeros((2, 3))
    for without, answer in (((3.0, 3.0), ""), ((3.0, 1.0), "d")):
        starts = np.array([[without[0], 0, 0], [without[1], 0, 2.0]])
        assert AnswerExtraction((), COLUMNS, may_be_none=True).decode(rows, windows, 9, starts, ends) == [answer]
        assert AnswerExtraction((), COLUMNS).decode(rows, windows, 9, starts, ends) == ["d"]


def test_targets_are_the_tokens_of_the_answer_in_its_windows(base: Path) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
    context = "we met today and then we met bob stone in oslo ."
    example = QuestionExample("who was it , who was it ?", context, [(context.index("bob"), "bob stone")])
    limits = TokenLimits(14, doc_stride=2, max_question_length=4, max_answer_length=5)
    encoded = AnswerExtraction((), COLUMNS).encode(Examples("x", "", [example]), tokenizer, limits, training=True)
    answers = []
    for feature in encoded.features:
        assert len(feature["input_ids"]) <= 14
        part = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
        answers.append(tokenizer.decode(part))
    assert answers == ["[CLS]", "bob stone"]
    assert encoded.notes == [
        "1 of 1 questions are longer than 4 tokens, the rest is cut",
        "1 contexts are read in 2 windows of 14 tokens",
    ]


# --- what is refused -----------------------------------------------------------------------------------------------


def question(**changed: object) -> Row:
    """Return a file of two questions; the second is changed."""
    good = {"id": "1", "question": SECRET, "answers": [{"text": "et", "answer_start": 4}], "is_impossible": False}
    return {"data": [{"paragraphs": [{"context": SECRET, "qas": [good, {**good, **changed}]}]}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": [{"paragraphs": [{}]}]}, "a.json: not in SQuAD's form"),
        ([], "a.json: no rows"),
        ({"data": [1]}, "a.json row 1: not a JSON object"),
        ({"data": []}, "a.json: no rows"),
        (question(answers=[]), "a.json row 2: no answer, although is_impossible is not true"),
        (question(answers=SECRET), "a.json row 2: the answers are not a list"),
        (question(question=" "), "a.json row 2, column question: the text is empty"),
        (question(answers=[{"text": "et", "answer_start": 3}]), "row 2, column answers: answer 1 does not stand in"),
        (question(answers=[{"text": "et"}]), "row 2, column answers: answer 1 does not stand in"),
        (question(answers=[{"answer_start": 3}]), "row 2, column answers: answer 1 is missing"),
        (
            {"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "x", "is_impossible": True}]}]}]},
            "a.json, column answers: no question has an answer",
        ),
    ],
)
def test_bad_data(content: Row, message: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path, "a.json", json.dumps(content))
    assert message in error
    assert SECRET not in error


def test_windows_without_room(base: Path, tmp_path: Path) -> None:
    train = save(tmp_path / "train.json", squad(20))
    with pytest.raises(ScriptError, match="--doc-stride 30 and --max-question-length 13 leave nothing new"):
        fit(base, tmp_path / "out", "--train", train, "--doc-stride", 30)
