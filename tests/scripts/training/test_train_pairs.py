"""Training for entailment and for ranking: labels that zero-shot finds, one number a pair, metrics by query."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sklearn.metrics import average_precision_score, ndcg_score

from scripts.readers import tables
from scripts.readers.formats import TABLES
from scripts.readers.tables import ColumnMapping
from scripts.training import splits, tasks
from scripts.training.tasks.ranking import Ranking, ranking_metrics
from tests.support.training import Row, fit, refusal, tiny, write

TOPICS = ["cats", "dogs", "birds", "rain"]
FILLER = ["a", "text", "about", "how", "many", "the", "in", "no"]
COLUMNS = ColumnMapping("query", "text", ("label",))
SECRET = "secret"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that knows the words."""
    return tiny(tmp_path_factory.mktemp("models") / "base", [*TOPICS, *FILLER])


def sentence(topic: str, generator: random.Random) -> str:
    """Write a few words about a topic."""
    words = generator.choices(FILLER[:-1], k=generator.randint(1, 3))
    words.insert(generator.randint(0, len(words)), topic)
    return " ".join(words)


def entailed(n: int, seed: int = 0) -> list[Row]:
    """Write pairs: a hypothesis that says "no" contradicts, one with "many" follows, others are neutral."""
    generator = random.Random(seed)  # noqa: S311 sentences, not secrets
    words = {"contradiction": "no", "entailment": "many", "neutral": "text"}
    return [
        {
            "premise": sentence(generator.choice(TOPICS), generator),
            "hypothesis": f"{words[label]} {generator.choice(TOPICS)}",
            "label": label,
        }
        for label in [sorted(words)[number % 3] for number in range(n)]
    ]


def ranked(n: int, seed: int = 0) -> list[Row]:
    """Write queries of one topic each, with four texts of which one is long and in detail, which is what they want."""
    generator = random.Random(seed)  # noqa: S311 sentences, not secrets
    rows = []
    for number in range(n):
        query = f"about {generator.choice(TOPICS)} {' '.join(generator.choices(FILLER, k=4))} {number}"
        relevant = generator.randrange(4)
        for index in range(4):
            text = sentence(generator.choice(TOPICS), generator)
            rows.append(
                {"query": query, "text": f"{text} no" if index == relevant else text, "label": int(index == relevant)}
            )
    return rows


@pytest.mark.slow
def test_entailment_serves_zero_shot(base: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", entailed(120))
    record = fit(base, tmp_path / "out", "--train", file, "--epochs", 5)
    assert record["problem"] == "entailment"
    assert record["labels"] == ["contradiction", "entailment", "neutral"]
    assert record["validation"]["accuracy"] > 0.8
    classifier: Any = transformers.pipeline("zero-shot-classification", str(tmp_path / "out"), device="cpu")
    assert classifier.entailment_id == 1
    labels = ["many birds", "no birds"]
    assert classifier("the rain in a text", labels, hypothesis_template="{}")["labels"][0] == "many birds"


@pytest.mark.slow
def test_ranking_learns_one_probability(base: Path, tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.csv", ranked(60)), write(tmp_path / "test.csv", ranked(15, 1))
    options = ("--epochs", 6, "--validation-split", 0.2, "--learning-rate", 1e-3)
    record = fit(base, tmp_path / "out", "--train", train, "--test", test, *options)
    assert record["problem"] == "ranking"
    assert record["data"]["validation"]["labels"] == {"queries": 12, "relevant": 12}
    assert record["epochs"][0]["ndcg"] < record["validation"]["ndcg"]
    assert record["test"]["mrr"] > 0.8
    scorer: Any = transformers.pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    config = scorer.model.config
    assert (config.id2label, config.num_labels) == ({0: "relevance"}, 1)
    rows = ranked(15, 1)
    answers = scorer([{"text": row["query"], "text_pair": row["text"]} for row in rows])
    scores = np.array([answer["score"] for answer in answers])
    assert {answer["label"] for answer in answers} == {"relevance"}
    assert 0 <= scores.min() < scores.max() <= 1
    metrics = ranking_metrics([row["query"] for row in rows], [row["label"] for row in rows], scores)
    assert metrics == pytest.approx(record["test"], abs=1e-3)


def test_ranking_metrics_by_hand_and_by_sklearn() -> None:
    queries = [*"aaa", *"bb", *"cc"]
    grades = [0.0, 1.0, 0.6, 0.0, 1.0, 0.0, 0.2]
    scores = np.array([3.0, 2.0, 1.0, 0.5, 0.7, 0.9, 0.8])
    metrics = ranking_metrics(queries, grades, scores[:, None])  # c has no relevant text
    first = (1 / math.log2(3) + 0.6 / math.log2(4)) / (1 + 0.6 / math.log2(3))
    assert metrics["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["ndcg"] == pytest.approx((first + 1) / 2)
    assert first == pytest.approx(ndcg_score([grades[:3]], [scores[:3]], k=10))
    assert metrics["average_precision"] == average_precision_score([0, 1, 1, 0, 1, 0, 0], scores)


def test_equal_scores_and_late_texts_earn_little() -> None:
    assert ranking_metrics(["q"] * 2, [1.0, 0.0], np.zeros((2, 1)))["mrr"] == 1 / 2
    late = ranking_metrics(["q"] * 12, [0.0] * 11 + [1.0], -np.arange(12.0))
    assert (late["mrr"], late["ndcg"]) == (0, 0)


def test_a_query_is_held_out_with_all_its_texts(tmp_path: Path) -> None:
    read = tables.read(write(tmp_path / "a.csv", ranked(20)), Ranking.readers)
    task = Ranking.from_table(read, COLUMNS)
    kept, held = splits.split(task, task.examples(read), 0.2, seed=1)
    assert len(held) == 16
    assert not {row.text for row in kept.rows} & {row.text for row in held.rows}


@pytest.mark.parametrize(
    ("header", "labels", "columns", "kind"),
    [
        ("premise,hypothesis,label", ["entailment", "neutral"], ColumnMapping("text", None, ()), "entailment"),
        ("premise,hypothesis,label", ["same", "other"], ColumnMapping("premise", "hypothesis", ()), "single"),
        ("query,text,label", ["0", "1"], ColumnMapping("text", None, ()), "ranking"),
        ("query,text,relevance", ["0.5", "1"], ColumnMapping("text", None, ()), "ranking"),
        ("query,text,label", ["refund", "other"], ColumnMapping("text", None, ()), "single"),
        ("query,text,label", ["0", "1"], ColumnMapping("query", "text", ()), "single"),
    ],
)
def test_the_problem_is_guessed(
    header: str, labels: list[str], columns: ColumnMapping, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("".join(f"{line}\n" for line in (header, *(f"x,y,{label}" for label in labels))))
    assert tasks.guess(tables.read(tmp_path / "a.csv", TABLES), columns) == kind


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            f"query,text,label\n{SECRET},{SECRET},2\n",
            ("--problem", "ranking"),
            "row 2, column label: the relevance must",
        ),
        (f"query,text,label\n{SECRET},,1\n", (), "a.csv row 2, column text: the text is empty"),
        (f"query,text,label\n{SECRET},x,1\n{SECRET},y,0\n", (), "too few queries (1) to hold out"),
        (
            f"query,text,label\n{SECRET},x,1\n{SECRET},y,1\nb,x,1\nc,y,1\n",
            ("--validation-split", "0.4"),
            "4 of 4 texts are relevant; some must be, not all",
        ),
        (
            f"premise,hypothesis,label\n{SECRET},{SECRET},neutral\n{SECRET},{SECRET},{SECRET}\n",
            ("--problem", "entailment"),
            "a.csv row 3, column label: the label is none of entailment, neutral",
        ),
        ("premise,hypothesis,label\nx,y,neutral\nx,y,contradiction\n", (), "column label: no label is entailment"),
        (f"premise,label\n{SECRET},neutral\n", ("--problem", "entailment"), "a.csv: no column hypothesis"),
    ],
)
def test_bad_data(content: str, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path, "a.csv", content, *options)
    assert message in error
    assert SECRET not in error
