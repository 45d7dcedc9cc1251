"""Folders as SetFit saves them: the scores are those of its body and its head, and its pickle runs nothing.

The files are made by sentence-transformers, scikit-learn and joblib as by SetFitModel.save_pretrained of setfit 1.2.0.
setfit itself is not installed: it needs the package evaluate, whose name is that of a command of this repository.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from transformers import BertModel

from handler.config import ModelConfig, ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.setfit_head import read_head
from scripts.pretrained.source import open_model
from tests.support.samples import MakeModel, ask, response_json

TEXTS = ["parcel", "Where is my parcel?", "The charger stopped working.", "L'écran est rayé 🙂", "it goes on " * 60]
NAMES = ["refund", "parcel", "other"]
SINGLE = [0, 1, 2, 1, 0]
EACH = [[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1]]

Save = Callable[..., tuple[Path, NDArray[np.float64]]]


@pytest.fixture(scope="module")
def body(make_model: MakeModel) -> SentenceTransformer:
    """Return a random sentence-transformer: a BERT, the mean of its tokens, scaled to length 1."""
    transformer = modules.Transformer(str(make_model(architecture=BertModel)), max_seq_length=48)
    return SentenceTransformer(
        modules=[transformer, modules.Pooling(32, "mean")], device="cpu", prompts={"topic": "topic: "}
    )


@pytest.fixture
def save(body: SentenceTransformer, tmp_path: Path) -> Save:
    """Return a function that fits a head on the texts, saves the folder, and returns it with the probabilities."""

    def run(
        head: Any, targets: Any, labels: list[str] | None = None, prompt: str | None = None, normalize: bool = False
    ) -> tuple[Path, NDArray[np.float64]]:
        folder = tmp_path / "setfit"
        body.default_prompt_name = prompt
        vectors = body.encode(TEXTS, normalize_embeddings=normalize)
        head.fit(vectors, targets)
        body.save_pretrained(str(folder))
        joblib.dump(head, folder / "model_head.pkl")
        (folder / "config_setfit.json").write_text(json.dumps({"normalize_embeddings": normalize, "labels": labels}))
        probabilities = head.predict_proba(vectors)
        if isinstance(probabilities, list):  # of each label (texts, no or yes)
            probabilities = np.stack(probabilities, axis=1)[:, :, 1]
        return folder, probabilities

    return run


def served(folder: Path) -> Predictor:
    """Return the predictor of a SetFit folder, its head converted."""
    with open_model(ModelRequest(str(folder), convert_pickle=True)) as source:
        return load_predictor(source.folder, ServingConfig(top_k=3))


def scores(predictor: Predictor) -> list[dict[str, float]]:
    """Return the scores of the texts by label."""
    answers = response_json(ask(predictor, {"inputs": TEXTS})[0])
    return [{ranked["label"]: ranked["score"] for ranked in answer} for answer in answers]


@pytest.mark.parametrize(
    ("head", "targets", "options", "names"),
    [
        (LogisticRegression(C=30), SINGLE, {"labels": NAMES}, NAMES),
        (LogisticRegression(C=30), [NAMES[i] for i in SINGLE], {"prompt": "topic"}, sorted(NAMES)),
        (LogisticRegression(C=30), [0, 1, 1, 1, 0], {"normalize": True}, ["0", "1"]),
        (OneVsRestClassifier(LogisticRegression(C=30)), EACH, {"labels": NAMES}, NAMES),
        (MultiOutputClassifier(LogisticRegression(C=30)), EACH, {"labels": NAMES}, NAMES),
    ],
    ids=["several", "strings and a prompt", "two, normalized", "one-vs-rest", "multi-output"],
)
def test_scores_equal_setfit(save: Save, head: Any, targets: Any, options: Any, names: list[str]) -> None:
    """Names of labels and all scores are those of scikit-learn over the embeddings."""
    folder, probabilities = save(head, targets, **options)
    answers = scores(served(folder))
    assert {*answers[0]} == {*names}
    np.testing.assert_allclose([[answer[name] for name in names] for answer in answers], probabilities, atol=2e-6)


def test_the_archive_serves_and_explains_it(save: Save, body: SentenceTransformer, tmp_path: Path) -> None:
    """Packed as any model: the reference at packing, embeddings beside it, explanations that add up, no pairs."""
    folder, probabilities = save(LogisticRegression(C=30), [NAMES[i] for i in SINGLE])
    with pytest.raises(ScriptError, match=r"model_head\.pkl, a pickle.*--convert-pickle.*--task feature-extraction or"):
        build(ArchiveContents(folder, "mine", "1.0", ModelConfig()), tmp_path)
    with open_model(ModelRequest(str(folder), convert_pickle=True)) as source:
        assert source.provenance.steps == ("model_head.pkl: logistic regression of 3 labels converted to safetensors",)
        archive = build(
            ArchiveContents(source.folder, "mine", "1.0", ModelConfig(), provenance=source.provenance), tmp_path
        )
    shutil.unpack_archive(archive, tmp_path / "unpacked", "zip")
    predictor = load_predictor(tmp_path / "unpacked")
    vector = response_json(ask(predictor, TEXTS[1], operation="embed")[0])
    np.testing.assert_allclose(vector, body.encode(TEXTS[1]), atol=1e-5)
    explained = response_json(ask(predictor, TEXTS[1], explain=True)[0])
    total = sum(word["attribution"] for word in explained["words"])
    assert explained["score"] == pytest.approx(probabilities[1].max(), abs=1e-5)
    assert total == pytest.approx(explained["score"] - explained["baseline_score"], abs=0.05)
    pair = ask(predictor, {"text": "a", "text_pair": "b"})[0]
    assert pair.status == 422
    assert "unknown field, accepted: text" in pair.content.decode()


class Runs:
    """An object whose pickle calls a function when it is read as a pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_nothing_of_a_pickle_runs(tmp_path: Path) -> None:
    """A call, also one inside of an array of objects, a class of another head, and a file cut short are refused."""
    trap, file = tmp_path / "trap", tmp_path / "model_head.pkl"
    for value in (Runs(trap), {"coef_": np.array([Runs(trap)], dtype=object)}):
        joblib.dump(value, file)
        with pytest.raises(
            ScriptError, match=r"model_head\.pkl holds (posix\.mkdir|an array of objects), which is not"
        ):
            read_head(file)
        assert not trap.exists()
    x = np.eye(3)
    for head, what in (
        (KNeighborsClassifier(1).fit(x, SINGLE[:3]), r"sklearn\.neighbors\._classification\.KNeighborsClassifier"),
        (OneVsRestClassifier(LogisticRegression()).fit(x, SINGLE[:3]), "classes that exclude each other, each by a"),
        (LogisticRegression(), "a logistic regression that was not fitted"),
        ([1.0], "a list"),
    ):
        joblib.dump(head, file)
        with pytest.raises(ScriptError, match=f"model_head\\.pkl holds {what}.*: train the head again as a logistic"):
            read_head(file)
    joblib.dump(LogisticRegression().fit(x, SINGLE[:3]), file)
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ScriptError, match=r"model_head\.pkl cannot be read, perhaps cut short \("):
        read_head(file)
