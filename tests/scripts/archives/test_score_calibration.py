"""Calibration at packing: labels are drawn from the model's own scores, so that the right calibration is known."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import roc_auc_score

from handler import archive
from handler.confidence import Platt, Temperature, logit
from handler.config import ModelConfig, ServingConfig
from handler.errors import GoldenMismatch, ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from scripts.archives.calibration import Calibration
from scripts.archives.examples import ColumnOptions
from scripts.archives.labelled import read_labelled
from scripts.archives.score_calibration import ScoreExamples, calibrate_scores
from scripts.cli.console import ScriptError
from tests.support.samples import MODELS, ROOT, LoadMain, MakeModel
from tests.support.texts import short_texts

TRUE_TEMPERATURE = 2.0  # of the labels: the model's scores are too sure
GENERATOR = np.random.default_rng(11)


def ranking_scores(predictor: Predictor, items: Sequence[Any], labels: Sequence[str], **parameters: Any) -> np.ndarray:
    """Return the scores (items, labels) of rankings."""
    answers = predictor.answer_items(list(items), parameters)
    return np.array([[{r["label"]: r["score"] for r in answer}[label] for label in labels] for answer in answers])


def draw(scores: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Draw a label for each row of scores, from the scores at the true temperature."""
    true = Temperature(TRUE_TEMPERATURE)(scores)
    return [str(GENERATOR.choice(list(labels), p=row / row.sum())) for row in true]


def chances(scores: np.ndarray) -> np.ndarray:
    """Return the chance that a decision is right: the better its score among the others, the higher."""
    z = logit(scores)
    return np.asarray(1 / (1 + np.exp(-1.5 * (z - z.mean(0)) / z.std(0))))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def classified(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of texts of up to three windows with labels."""
    predictor = load_predictor(model_folder, ServingConfig(overflow="window", max_length=12, stride=2))
    texts = short_texts(400, longest=30)
    labels = draw(ranking_scores(predictor, texts, predictor.task.labels, top_k=None), predictor.task.labels)
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return write(tmp_path_factory.mktemp("data") / "held-out.jsonl", rows)


@pytest.fixture(scope="module")
def store(model_folder: Path, classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack the classifier with calibrated scores, reading long texts in windows; return the model store."""
    folder = tmp_path_factory.mktemp("store")
    config = ModelConfig.read(ROOT / "model-config.yaml")
    config = replace(config, handler=replace(config.handler, overflow="window", max_length=12, stride=2))
    outside = write(folder / "outside.jsonl", [{"text": text} for text in short_texts(50, seed=9)])
    build(ArchiveContents(model_folder, "mine", "1.0", config, scores=ScoreExamples(classified, outside)), folder)
    return folder


@pytest.fixture
def unpacked(store: Path, tmp_path: Path) -> Path:
    """Return a fresh copy of the unpacked archive."""
    with zipfile.ZipFile(store / "mine.mar") as packed:
        packed.extractall(tmp_path)
    return tmp_path


def config_of(folder: Path) -> ServingConfig:
    """Return the settings of an unpacked archive."""
    return ModelConfig.read(folder / archive.MODEL_CONFIG).handler


def test_the_temperature_is_that_of_the_scores_as_they_are_served(unpacked: Path, classified: Path) -> None:
    """With windows merged: scipy finds the same on the answers of the archive, and about the true one."""
    predictor = load_predictor(unpacked, config_of(unpacked))
    rows = [json.loads(line) for line in classified.read_text().splitlines()]
    labels = predictor.task.labels
    texts, targets = [row["text"] for row in rows], np.array([labels.index(row["label"]) for row in rows])
    raw = ranking_scores(predictor, texts, labels, top_k=None, raw=True)
    assert sum(len(predictor.tokenizer.text_to_ids(text)) > 12 for text in texts) > 100

    def loss(temperature: float) -> float:
        powers = raw ** (1 / temperature)
        return -float(np.log(powers[np.arange(len(targets)), targets] / powers.sum(1)).mean())

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert predictor.calibration is not None
    function = predictor.calibration.functions["softmax"]
    assert isinstance(function, Temperature)
    assert function.value == pytest.approx(expected, rel=1e-3)
    assert function.value > 1.2
    served = ranking_scores(predictor, texts, labels, top_k=None)
    powers = raw ** (1 / expected)
    assert served == pytest.approx(powers / powers.sum(1, keepdims=True), abs=1e-4)


def test_archive_and_card_say_what_was_measured(unpacked: Path) -> None:
    """ECE before and after, coverage by label, how well texts out of scope are told; no text."""
    report = json.loads((unpacked / archive.CALIBRATION).read_text())["float"]["report"]
    measured = report["scores"]["softmax"]
    assert measured["after"]["ece"] < measured["before"]["ece"] - 0.05
    for coverage in ("0.9", "0.95"):
        seen = report["coverage"][coverage]
        assert seen["overall"] == pytest.approx(float(coverage), abs=0.05)
        assert sum(row["examples"] for row in seen["labels"].values()) == report["file"]["examples"] == 400
    assert 0.3 < report["out_of_scope"]["auroc"] < 0.7  # such texts are no others here
    card = (unpacked / archive.CARD).read_text()
    assert f"ECE {measured['before']['ece']:.4f} -> {measured['after']['ece']:.4f}" in card
    assert "| joy |" in card
    calibration = (unpacked / archive.CALIBRATION).read_text()
    assert not any(text in calibration or text in card for text in short_texts(400, longest=30))


def test_the_same_input_gives_the_same_bytes(store: Path, model_folder: Path, classified: Path, unpacked: Path) -> None:
    again = store / "again"
    again.mkdir()
    config = ModelConfig.read(unpacked / archive.MODEL_CONFIG)
    examples = ScoreExamples(classified, store / "outside.jsonl")
    build(ArchiveContents(model_folder, "mine", "1.0", config, scores=examples), again)
    assert archive.sha256(again / "mine.mar") == archive.sha256(store / "mine.mar")


def test_a_changed_calibration_never_becomes_ready(unpacked: Path) -> None:
    """Its hash is listed; and if it was packed so, the self-test computes other scores."""
    file = unpacked / archive.CALIBRATION
    content = json.loads(file.read_text())
    content["float"]["functions"]["softmax"]["temperature"] *= 1.2
    file.write_text(json.dumps(content))
    with pytest.raises(ModelMismatch, match="not the file that was packed"):
        load_predictor(unpacked, config_of(unpacked))
    archive.write_manifest(unpacked, "mine", "1.0", "text-classification")
    with pytest.raises(GoldenMismatch):
        load_predictor(unpacked, config_of(unpacked))


def test_openapi_beside_the_archive_has_the_parameters(store: Path) -> None:
    document = json.loads((store / "mine.openapi.json").read_text())
    assert {"raw", "min_confidence", "coverage"} <= set(document["components"]["schemas"]["Parameters"]["properties"])


def test_int8_is_calibrated_in_int8(model_folder: Path, classified: Path, tmp_path: Path) -> None:
    """With `auto` each precision has functions of its own."""
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    for precision, names in (("int8", ["int8"]), ("auto", ["int8", "float"])):
        config = replace(settings, handler=replace(settings.handler, precision=precision))  # type: ignore[arg-type]
        calibration = Calibration(classified, min_accuracy_ratio=0.5)
        build(
            ArchiveContents(model_folder, precision, "1.0", config, calibration, scores=ScoreExamples(classified)),
            tmp_path,
        )
        with zipfile.ZipFile(tmp_path / f"{precision}.mar") as packed:
            packed.extractall(tmp_path / precision)
        by_precision = json.loads((tmp_path / precision / archive.CALIBRATION).read_text())
        assert list(by_precision) == names
    assert by_precision["int8"]["functions"] != by_precision["float"]["functions"]


def test_several_labels_have_the_lines_of_scikit_learn(make_model: MakeModel, tmp_path: Path) -> None:
    predictor = load_predictor(make_model("multi_label_classification"))
    labels, texts = predictor.task.labels, short_texts(400)
    scores = ranking_scores(predictor, texts, labels, top_k=None)
    flags = GENERATOR.random(scores.shape) < chances(scores)
    rows = [
        {"text": text, **{label: int(flag) for label, flag in zip(labels, row, strict=True)}}
        for text, row in zip(texts, flags, strict=True)
    ]
    calibration = calibrate_scores(predictor, ScoreExamples(write(tmp_path / "flags.jsonl", rows)))
    lines = calibration.functions["sigmoid"]
    assert isinstance(lines, Platt)
    for column in range(len(labels)):
        reference = _SigmoidCalibration().fit(logit(scores[:, column]), flags[:, column])
        assert lines.slopes[column] == pytest.approx(-reference.a_, rel=1e-2, abs=1e-2)
        assert lines.intercepts[column] == pytest.approx(-reference.b_, rel=1e-2, abs=1e-2)
    assert calibration.label_sets is not None
    assert [len(calibration.label_sets.by_label[label]) for label in labels] == flags.sum(0).tolist()


def test_entities_are_calibrated_by_span(load_main: LoadMain, tmp_path: Path) -> None:
    """An entity is right if its characters and its type are; each strategy has a line, tokens too."""
    predictor = load_main("token-classification")
    texts = short_texts(150)
    found = predictor.answer_items(texts, {"aggregation_strategy": "first"})
    rows = []
    for text, entities in zip(texts, found, strict=True):
        kept = [entity for entity in entities if GENERATOR.random() < entity["score"] ** 2]
        rows.append({"text": text, "entities": [[e["start"], e["end"], e["entity_group"]] for e in kept]})
    calibration = calibrate_scores(predictor, ScoreExamples(write(tmp_path / "entities.jsonl", rows)))
    assert [*calibration.functions] == ["simple", "first", "average", "max", "none"]
    before, hits = [], []
    for row, entities in zip(rows, found, strict=True):
        for entity in entities:
            before.append(entity["score"])
            hits.append([entity["start"], entity["end"], entity["entity_group"]] in row["entities"])
    reference = _SigmoidCalibration().fit(logit(before), np.array(hits))
    line = calibration.functions["first"]
    assert isinstance(line, Platt)
    assert (line.slopes[0], line.intercepts[0]) == pytest.approx((-reference.a_, -reference.b_), rel=1e-2, abs=1e-2)
    served = predictor.answer_items(texts, {"aggregation_strategy": "first"})
    mean = np.mean([entity["score"] for entities in served for entity in entities])
    assert mean == pytest.approx(
        np.mean(hits), abs=0.02
    )  # on the examples of the fit the line has the mean of the hits


def test_answers_are_calibrated_by_exact_match(load_main: LoadMain, tmp_path: Path) -> None:
    """Once for questions that have an answer, once where they may have none."""
    predictor = load_main("question-answering")
    items = [{"question": "where is it", "context": text} for text in short_texts(250)]
    answers = predictor.answer_items(items)
    rows = []
    hits = GENERATOR.random(len(items)) < chances(np.array([answer["score"] for answer in answers]))
    for item, answer, right in zip(items, answers, hits, strict=True):
        text = item["context"][answer["start"] : answer["end"]] if right else item["context"]
        start = answer["start"] if right else 0
        rows.append({**item, "answers": {"text": [text], "answer_start": [start]}})
    for row in rows[::5]:
        row["answers"] = {"text": [], "answer_start": []}
    calibration = calibrate_scores(predictor, ScoreExamples(write(tmp_path / "squad.jsonl", rows)))
    assert next(iter(calibration.functions)) == "answer"
    measured = calibration.report["scores"]["answer"]
    assert measured["after"]["ece"] < measured["before"]["ece"]


def test_rerank_zero_shot_and_next_sentence_are_calibrated(load_main: LoadMain, tmp_path: Path) -> None:
    texts = short_texts(300)
    reranker = load_main("rerank")
    pairs = [{"query": text, "texts": [other]} for text, other in zip(texts, texts[1:] + texts[:1], strict=True)]
    scores = np.array([answer[0]["score"] for answer in reranker.answer_items(pairs)])
    grades = (GENERATOR.random(len(scores)) < chances(scores)).astype(int)
    rows = [
        {"query": pair["query"], "text": pair["texts"][0], "label": int(grade)}
        for pair, grade in zip(pairs, grades, strict=True)
    ]
    line = calibrate_scores(reranker, ScoreExamples(write(tmp_path / "ranking.jsonl", rows))).functions["sigmoid"]
    reference = _SigmoidCalibration().fit(logit(scores), grades)
    assert isinstance(line, Platt)
    assert (line.slopes[0], line.intercepts[0]) == pytest.approx((-reference.a_, -reference.b_), rel=1e-2, abs=1e-2)

    classifier = load_main("zero-shot-classification")
    candidates = ["delivery", "payment", "repair"]
    drawn = draw(ranking_scores(classifier, texts, candidates, candidate_labels=candidates), candidates)
    rows = [{"text": text, "label": label} for text, label in zip(texts, drawn, strict=True)]
    functions = calibrate_scores(classifier, ScoreExamples(write(tmp_path / "zero.jsonl", rows))).functions
    assert isinstance(functions["softmax"], Temperature)

    follows = load_main("next-sentence-prediction")
    items = [{"text": pair["query"], "next_sentence": pair["texts"][0]} for pair in pairs]
    drawn = draw(ranking_scores(follows, items, follows.task.labels), follows.task.labels)
    rows = [{**item, "label": label} for item, label in zip(items, drawn, strict=True)]
    calibration = calibrate_scores(follows, ScoreExamples(write(tmp_path / "next.jsonl", rows)))
    assert calibration.label_sets is not None


def test_columns_have_the_names_of_the_options(model_folder: Path, classified: Path, tmp_path: Path) -> None:
    """The same examples in other columns give the same functions, texts out of scope included."""
    first, predictor = (load_predictor(model_folder, ServingConfig(max_length=12)) for _ in range(2))
    outside = short_texts(30, seed=9)
    named = calibrate_scores(
        first, ScoreExamples(classified, write(tmp_path / "outside.jsonl", [{"text": text} for text in outside]))
    )
    rows = [json.loads(line) for line in classified.read_text().splitlines()]
    renamed = write(tmp_path / "mails.jsonl", [{"body": row["text"], "mood": row["label"]} for row in rows])
    other = write(tmp_path / "others.jsonl", [{"body": text} for text in outside])
    columns = ColumnOptions(text="body", label="mood")
    calibration = calibrate_scores(predictor, ScoreExamples(renamed, other, columns))
    assert calibration.functions == named.functions
    assert calibration.report["scores"] == named.report["scores"]
    with pytest.raises(ScriptError, match="no column text; its columns are body, mood: choose with --text-column"):
        read_labelled(renamed, predictor.task)
    with pytest.raises(ScriptError, match="no column mood; its columns are text, label: choose with --label-column"):
        read_labelled(classified, predictor.task, ColumnOptions(label="mood"))


@pytest.mark.parametrize("main", ["feature-extraction", "fill-mask", "sentence-similarity", "tokenize"])
def test_a_task_without_such_scores_is_refused(main: str, load_main: LoadMain, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(ScriptError, match=f"{main} has no scores that are probabilities"):
        read_labelled(file, load_main(main).task)


def test_bad_examples_are_refused_by_row_and_without_their_text(
    predictor: Predictor, make_model: MakeModel, tmp_path: Path
) -> None:
    marker = "xyzzyplugh"
    cases = [
        ([{"text": marker, "label": "unknown"}], r"rows\.jsonl row 1, column label: the label is none of the 4"),
        ([{"text": "a", "label": "joy"}, {"text": " ", "label": "joy"}], r"row 2, column text: the text is empty"),
        ([{"text": marker}], r"no column label"),
        ([], "no rows"),
    ]
    for rows, message in cases:
        with pytest.raises(ScriptError, match=message) as refused:
            read_labelled(write(tmp_path / "rows.jsonl", rows), predictor.task)
        assert marker not in str(refused.value)
    few = write(tmp_path / "rows.jsonl", [{"text": marker, "label": "joy"}] * 19)
    with pytest.raises(ScriptError, match=r"rows\.jsonl: 19 examples; a calibration needs 20"):
        calibrate_scores(predictor, ScoreExamples(few))
    regression = load_predictor(make_model("regression", ("points",)))
    with pytest.raises(ScriptError, match="a regression has no scores that are probabilities"):
        read_labelled(write(tmp_path / "rows.jsonl", [{"text": "a", "label": 1}]), regression.task)
    with pytest.raises(ScriptError, match="has 200001 characters"):
        read_labelled(write(tmp_path / "rows.jsonl", [{"text": "a" * 200_001, "label": "joy"}]), predictor.task)


def test_scores_that_say_nothing_are_refused(load_main: LoadMain, tmp_path: Path) -> None:
    """Relevance that falls with the score, e.g. of a file whose grades are reversed."""
    reranker = load_main("rerank")
    pairs = [{"query": text, "texts": ["no"]} for text in short_texts(80)]
    scores = np.array([answer[0]["score"] for answer in reranker.answer_items(pairs)])
    rows = [
        {"query": pair["query"], "text": "no", "label": int(score < np.median(scores))}
        for pair, score in zip(pairs, scores, strict=True)
    ]
    with pytest.raises(ScriptError, match=r"ranking\.jsonl: answers with higher scores are not right more often"):
        calibrate_scores(reranker, ScoreExamples(write(tmp_path / "ranking.jsonl", rows)))


def test_answers_abstain_by_the_score_that_tells_best(model_folder: Path, classified: Path, tmp_path: Path) -> None:
    """The line is that of scikit-learn, the AUROC that of the confidence as it is served, auto the best of three."""
    predictor = load_predictor(model_folder, ServingConfig(overflow="window", max_length=12, stride=2))
    outside = short_texts(60, seed=9, longest=4)
    file = write(tmp_path / "outside.jsonl", [{"text": text} for text in outside])
    rows = [json.loads(line) for line in classified.read_text().splitlines()]
    inside, labels = [row["text"] for row in rows], predictor.task.labels
    right = [answer[0]["label"] for answer in predictor.answer_items(inside, {"top_k": 1})]
    targets = np.array([*(row["label"] == label for row, label in zip(rows, right, strict=True)), *[False] * 60])
    areas = {}
    for kind in ("raw", "energy"):
        calibration = calibrate_scores(predictor, ScoreExamples(classified, file, abstain_by=kind))
        report, score = calibration.report["out_of_scope"], calibration.abstention
        assert score is not None
        texts = [*inside, *outside]
        if kind == "raw":
            x = logit(ranking_scores(predictor, texts, labels, top_k=None, raw=True).max(-1))
        else:
            logits = ranking_scores(predictor, texts, labels, top_k=None, function_to_apply="none")
            x = np.log(np.exp(logits).sum(-1))
        line = _SigmoidCalibration().fit(x, targets.astype(int))
        served = [answer["confidence"] for answer in predictor.answer_items(texts, {"min_confidence": 0.5})]
        assert served == pytest.approx(line.predict(x), abs=2e-3)
        areas[kind] = roc_auc_score([1] * len(inside) + [0] * len(outside), served)
        assert report[f"auroc_{kind}"] == pytest.approx(areas[kind], abs=1e-4)
        assert report["refused_in_scope"] == pytest.approx(0.05, abs=0.01)
        refused = np.mean(np.array(served[len(inside) :]) < report["min_confidence"])
        assert report["refused_out_of_scope"] == pytest.approx(refused, abs=1e-4)
    areas["calibrated"] = report["auroc"]
    chosen = calibrate_scores(predictor, ScoreExamples(classified, file, abstain_by="auto"))
    best = max(areas, key=lambda name: areas[name])
    assert chosen.report["out_of_scope"]["abstain_by"] == best
    assert (chosen.abstention.kind if chosen.abstention else "calibrated") == best


def test_out_of_scope_needs_labels_that_exclude_each_other(load_main: LoadMain, tmp_path: Path) -> None:
    reranker = load_main("rerank")
    rows = [{"query": text, "text": "no", "label": 1 - number % 2} for number, text in enumerate(short_texts(40))]
    file = write(tmp_path / "ranking.jsonl", rows)
    with pytest.raises(ScriptError, match="--out-of-scope is for models with labels that exclude"):
        calibrate_scores(reranker, ScoreExamples(file, file))
    assert "rerank" in MODELS
