"""Calibrated scores, abstention and label sets: in every task that has them and in every protocol."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from handler import openapi
from handler.confidence import (
    AbstentionScore,
    DriftReference,
    Feature,
    LabelSets,
    Platt,
    ScoreCalibration,
    Temperature,
    logit,
)
from handler.config import ServingConfig
from handler.description import describe
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import Request
from handler.tasks import TASKS
from tests.support.samples import JSON_TYPE, TEXTS, LoadMain, MakeModel, ask, response_json

LINE = Platt((0.7,), (-0.2,))
FUNCTIONS: dict[str, dict[str, Any]] = {
    "text-classification": {"softmax": Temperature(2.0)},
    "next-sentence-prediction": {"softmax": Temperature(2.0)},
    "zero-shot-classification": {"softmax": Temperature(0.5), "multi_label": LINE},
    "token-classification": dict.fromkeys(("simple", "first", "average", "max", "none"), LINE),
    "question-answering": {"answer": LINE, "handle_impossible_answer": Platt((0.5,), (0.1,))},
    "rerank": {"sigmoid": LINE},
}
ITEMS: dict[str, Any] = {
    "text-classification": TEXTS[0],
    "next-sentence-prediction": {"text": "My parcel has not arrived.", "next_sentence": "Where is it?"},
    "zero-shot-classification": TEXTS[0],
    "token-classification": "Ada Lovelace wrote to Charles Babbage in London.",
    "question-answering": {"question": "Who wrote?", "context": "Ada wrote the letter in London."},
    "rerank": {"query": "Where is it?", "texts": ["On its way.", "no", "In London."]},
}
OTHER_ITEMS: dict[str, Any] = {
    "sentence-similarity": {"source_sentence": "Where?", "sentences": ["Here."]},
    "fill-mask": "It is [MASK].",
}
NEEDED: dict[str, dict[str, Any]] = {"zero-shot-classification": {"candidate_labels": ["a", "b", "c"]}}
EVERYTHING: dict[str, list[dict[str, Any]]] = {
    "token-classification": [
        {"aggregation_strategy": name, "ignore_labels": []} for name in FUNCTIONS["token-classification"]
    ],
    "question-answering": [{"top_k": 1}, {"top_k": 3, "handle_impossible_answer": True}],
    "zero-shot-classification": [{}, {"multi_label": True}],
}


def calibrated(predictor: Predictor, **more: Any) -> Predictor:
    """Calibrate the scores of a predictor's main task."""
    name = predictor.task.name
    predictor.calibrate(ScoreCalibration(name, FUNCTIONS[name], **more))
    return predictor


@pytest.fixture(scope="module", params=FUNCTIONS)
def served(request: pytest.FixtureRequest, load_main: LoadMain) -> Predictor:
    """Return a predictor of every task with scores that are probabilities, calibrated."""
    predictor = load_main(request.param, name="mine", version="2.0")
    sets = None
    if "coverage" in predictor.task.calibrated_parameters:
        labels = predictor.task.labels
        sets = LabelSets.from_scores(labels, {label: np.linspace(0.05, 0.9, 30).tolist() for label in labels})
    return calibrated(predictor, label_sets=sets)


@pytest.fixture(scope="module")
def classifier(load_main: LoadMain) -> Predictor:
    """Return a calibrated classifier of four labels."""
    predictor = load_main("text-classification")
    nonconformity = {label: np.linspace(0.01, 0.99, 99).tolist() for label in predictor.task.labels}
    return calibrated(predictor, label_sets=LabelSets.from_scores(predictor.task.labels, nonconformity))


def answer(predictor: Predictor, **parameters: Any) -> Any:
    """Return the answer to the item of the predictor's task."""
    name = predictor.task.name
    (value,) = predictor.answer_items([ITEMS[name]], NEEDED.get(name, {}) | parameters)
    return value


def scores_of(value: Any) -> dict[Any, float]:
    """Return the scores of an answer by what they are the scores of."""
    parts = value["ranking"] if "ranking" in value else value if isinstance(value, list) else [value]
    return {
        tuple(item for key, item in part.items() if key not in ("score", "abstained")): part["score"] for part in parts
    }


def variants(predictor: Predictor) -> list[dict[str, Any]]:
    """Return parameters that reach every variant of the scores of a task."""
    return EVERYTHING.get(predictor.task.name, [{}])


def function_for(predictor: Predictor, parameters: dict[str, Any]) -> Any:
    """Return the function of the variant that parameters choose."""
    functions = FUNCTIONS[predictor.task.name]
    if parameters.get("multi_label"):
        return functions["multi_label"]
    if parameters.get("handle_impossible_answer"):
        return functions["handle_impossible_answer"]
    return functions.get(parameters.get("aggregation_strategy", ""), next(iter(functions.values())))


def test_served_scores_are_the_function_of_the_raw_ones(served: Predictor) -> None:
    """By the formula written out, for every variant; only scores differ, and their order does not."""
    for parameters in variants(served):
        every = parameters | ({"top_k": None} if served.task.name == "text-classification" else {})
        raw, after = scores_of(answer(served, raw=True, **every)), scores_of(answer(served, **every))
        function = function_for(served, parameters)
        if isinstance(function, Temperature):
            powers = {key: score ** (1 / function.value) for key, score in raw.items()}
            expected = {key: power / sum(powers.values()) for key, power in powers.items()}
        else:
            lines = {key: function.slopes[0] * logit(score) + function.intercepts[0] for key, score in raw.items()}
            expected = {key: float(1 / (1 + np.exp(-line))) for key, line in lines.items()}
        assert after == pytest.approx(expected, abs=1e-6)
        assert list(after) == list(raw)


def test_an_answer_abstains_below_the_confidence_and_says_its_scores(served: Predictor) -> None:
    for parameters in variants(served):
        plain = answer(served, **parameters)
        for least, expected in ((1e-6, False), (0.999, True)):
            if parameters.get("multi_label") and least < 0.5:
                continue  # a label or its absence is always more likely than not
            judged = answer(served, min_confidence=least, **parameters)
            assert scores_of(judged) == scores_of(plain)
            parts = [judged] if isinstance(judged, dict) else judged
            assert [part["abstained"] for part in parts] == [expected] * len(parts)


def test_schemas_and_document_describe_judged_answers(served: Predictor) -> None:
    task = served.task
    parameters = [name for name in ("raw", "min_confidence", "coverage") if name in task.calibrated_parameters]
    document = openapi.document(served.operations, served.explainable, served.model, task.config)
    OpenAPIV31SpecValidator(document).validate()
    described = document["components"]["schemas"]["Parameters"]
    assert set(parameters) <= set(described["properties"])
    schema = Draft202012Validator(task.schema()["answer"])
    for more in variants(served):
        schema.validate(answer(served, **more))
        judged = answer(served, min_confidence=0.5, **more)
        schema.validate(judged)
        if isinstance(judged, dict):
            assert not schema.is_valid({**judged, "abstained": "no"})
    request = Draft202012Validator(described)
    request.validate({"min_confidence": 0.8, **({"coverage": 0.9} if "coverage" in parameters else {})})
    for value in (0, 1.1, "0.5", -1):
        assert not request.is_valid({"min_confidence": value})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_confidence": 0}, "min_confidence must be a number above 0 and at most 1, got 0"),
        ({"min_confidence": 1.5}, "min_confidence must be a number above 0 and at most 1, got 1.5"),
        ({"min_confidence": True}, "min_confidence must be a number above 0 and at most 1, got a boolean"),
        ({"coverage": 1}, "coverage must be a number above 0 and below 1, got 1"),
        ({"raw": 1}, "raw must be true or false, got a number"),
        ({"raw": True, "min_confidence": 0.5}, "min_confidence is about calibrated scores: leave out raw"),
        (
            {"function_to_apply": "sigmoid", "coverage": 0.9},
            "coverage needs calibrated scores, which this archive has only",
        ),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(
    classifier: Predictor, parameters: dict[str, Any], message: str
) -> None:
    (response,) = ask(classifier, {"inputs": TEXTS[0], "parameters": parameters})
    assert response.status == 422
    assert response_json(response)["message"].startswith(message)


@pytest.mark.parametrize("name", TASKS)
def test_without_a_calibration_each_parameter_is_refused(name: str, load_main: LoadMain) -> None:
    """By name, with what to do where that helps; scores stay those of the model."""
    task = load_main(name).task
    for parameter in ("raw", "min_confidence", "coverage"):
        (response,) = ask(
            load_main(name), {"inputs": {**OTHER_ITEMS, **ITEMS}.get(name, TEXTS[0]), "parameters": {parameter: 0.5}}
        )
        assert response.status == 422
        message = response_json(response)["message"]
        if parameter in task.calibrated_parameters:
            assert message == (
                f"{parameter} needs calibrated scores, which this archive does not have for {name}: "
                "pack the model with --calibrate-scores FILE"
            )
        else:
            assert message.startswith("unknown parameter, accepted: ")


def test_another_function_has_raw_scores(classifier: Predictor, load_main: LoadMain) -> None:
    """`function_to_apply` of the pipelines means what it means there."""
    parameters = {"function_to_apply": "sigmoid", "top_k": None}
    assert answer(classifier, **parameters) == answer(load_main("text-classification"), **parameters)


def test_sets_hold_every_label_above_its_threshold(classifier: Predictor) -> None:
    for coverage in (0.2, 0.5, 0.8, 0.95):
        judged = answer(classifier, coverage=coverage, top_k=None)
        best = [ranked["label"] for ranked in judged["ranking"]]
        threshold = np.ceil(100 * coverage - 1e-9) / 100
        expected = [ranked["label"] for ranked in judged["ranking"] if 1 - ranked["score"] <= threshold + 1e-9]
        assert judged["set"] == (expected or best[:1])
        assert judged["coverage"] == coverage
        assert "abstained" not in judged
    assert set(answer(classifier, coverage=0.995)["set"]) == set(classifier.task.labels)  # 99 examples promise no more


def test_every_protocol_says_it(classifier: Predictor) -> None:
    """TorchServe's own bodies, Hugging Face's, KServe v1 and v2."""
    parameters = {"min_confidence": 0.99, "coverage": 0.9, "top_k": 2}
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [TEXTS[0], TEXTS[1]]}
    plain, hugging, kserve, tensors = map(
        response_json,
        ask(
            classifier,
            {"text": TEXTS[0], "parameters": parameters},
            {"inputs": TEXTS[0], "parameters": parameters},
            {"instances": [TEXTS[0], TEXTS[1]], "parameters": parameters},
            {"inputs": [tensor], "parameters": parameters},
        ),
    )
    assert plain["abstained"] is True
    assert len(plain["ranking"]) == 2
    assert hugging == [plain]
    first, second = kserve["predictions"]
    assert first == plain
    outputs = {output["name"]: output for output in tensors["outputs"]}
    assert outputs["abstained"] == {"name": "abstained", "datatype": "BOOL", "shape": [2], "data": [True, True]}
    assert outputs["set"]["data"] == [serialize_value(value["set"]).decode() for value in (first, second)]
    assert outputs["label"]["shape"] == outputs["score"]["shape"] == [2, 2]
    (alone,) = ask(
        classifier, {"inputs": [tensor], "outputs": [{"name": "abstained"}], "parameters": {"min_confidence": 0.99}}
    )
    assert [output["name"] for output in response_json(alone)["outputs"]] == ["abstained"]


@pytest.mark.parametrize("kind", ["raw", "energy"])
def test_answers_abstain_by_the_confidence_that_was_chosen(kind: str, model_folder: Path) -> None:
    """Of two windows that are merged; said as `confidence` in every protocol; the scores stay the calibrated ones."""
    predictor = load_predictor(model_folder, ServingConfig(overflow="window", max_length=24, stride=2))
    abstention = AbstentionScore(kind, 0.5, -0.25)
    predictor.calibrate(ScoreCalibration("text-classification", {"softmax": Temperature(2.0)}, abstention=abstention))
    text = "It stopped charging after a week and nobody answers my letters. " * 2
    ((raw,), (logits,), (plain,)) = (
        predictor.answer_items([text], {"top_k": None, **more})
        for more in ({"raw": True}, {"function_to_apply": "none"}, {})
    )
    best, numbers = raw[0]["score"], np.array([ranked["score"] for ranked in logits])
    x = math.log(best / (1 - best)) if kind == "raw" else math.log(np.exp(numbers).sum())
    expected = 1 / (1 + math.exp(-(0.5 * x - 0.25)))
    (judged,) = predictor.answer_items([text], {"top_k": None, "min_confidence": 0.4})
    assert judged == {"ranking": plain, "abstained": expected < 0.4, "confidence": pytest.approx(expected, abs=1e-6)}
    (above,) = predictor.answer_items([text], {"min_confidence": min(1.0, expected + 0.01)})
    assert above["abstained"] is True
    Draft202012Validator(predictor.task.schema()["answer"]).validate(judged)
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    body = {"inputs": [tensor], "parameters": {"min_confidence": 0.4}}
    outputs = {output["name"]: output for output in response_json(ask(predictor, body)[0])["outputs"]}
    assert outputs["confidence"]["datatype"] == "FP32"
    assert outputs["confidence"]["data"] == [pytest.approx(expected, abs=1e-6)]
    assert describe(predictor)["abstain_by"] == kind
    again = ScoreCalibration.from_json(json.loads(json.dumps(predictor.calibration.to_json())))  # type: ignore[union-attr]
    assert again.abstention == abstention


def test_an_error_beside_judged_answers_is_reported(classifier: Predictor) -> None:
    body = {"inputs": [TEXTS[0], ""], "parameters": {"min_confidence": 0.99, "on_error": "report"}}
    good, bad = response_json(ask(classifier, body)[0])
    assert good["abstained"] is True
    assert bad["error"]["message"] == "text is empty"


def test_calibrated_answers_do_not_depend_on_the_batch(classifier: Predictor) -> None:
    parameters = {"min_confidence": 0.5, "coverage": 0.9}
    together = classifier.answer_items(TEXTS, parameters)
    for text, value in zip(TEXTS, together, strict=True):
        (alone,) = classifier.answer_items([text], parameters)
        assert (alone["abstained"], alone["set"]) == (value["abstained"], value["set"])
        assert scores_of(alone) == pytest.approx(scores_of(value), abs=1e-5)


def test_an_explanation_attributes_the_raw_score(classifier: Predictor) -> None:
    """Of the same label."""
    (explained,) = ask(classifier, {"inputs": TEXTS[0]}, explain=True)
    raw = answer(classifier, raw=True)
    assert response_json(explained)["label"] == raw[0]["label"]
    assert response_json(explained)["score"] == pytest.approx(raw[0]["score"], abs=1e-4)


def test_several_labels_abstain_one_by_one(make_model: MakeModel, make_predictor: Any) -> None:
    """A label is as sure as it is certain to be right or wrong; each has a line of its own."""
    predictor = make_predictor(make_model("multi_label_classification"))
    lines = Platt((1.0, 0.5, 2.0, 1.5), (0.0, 0.3, -1.0, 0.2))
    labels = predictor.task.labels
    sets = LabelSets.from_scores(labels, {label: np.linspace(0.1, 0.9, 9).tolist() for label in labels})
    before = {ranked["label"]: ranked["score"] for ranked in answer(predictor, top_k=None)}
    predictor.calibrate(ScoreCalibration("text-classification", {"sigmoid": lines}, sets))
    judged = answer(predictor, top_k=None, min_confidence=0.6, coverage=0.5)
    for ranked in judged["ranking"]:
        index = labels.index(ranked["label"])
        line = lines.slopes[index] * logit(before[ranked["label"]]) + lines.intercepts[index]
        assert ranked["score"] == pytest.approx(1 / (1 + np.exp(-line)), abs=1e-6)
        assert ranked["abstained"] == (0.4 < ranked["score"] < 0.6)
    assert judged["abstained"] == any(ranked["abstained"] for ranked in judged["ranking"])
    assert judged["set"] == [ranked["label"] for ranked in judged["ranking"] if 1 - ranked["score"] <= 0.5]


def test_one_label_shares_its_calibration_with_rerank(load_main: LoadMain) -> None:
    predictor = calibrated(load_main("rerank"))
    query, texts = "Where is it?", ["On its way.", "no"]
    ranked = predictor.answer_items([{"query": query, "texts": texts}])[0]
    by_index = {item["index"]: item["score"] for item in ranked}
    pairs = [{"text": query, "text_pair": text} for text in texts]
    classified = response_json(ask(predictor, {"inputs": pairs, "parameters": {"operation": "classify"}})[0])
    assert [value[0]["score"] for value in classified] == pytest.approx([by_index[0], by_index[1]], abs=1e-5)
    logits = predictor.answer_items([{"query": query, "texts": texts}], {"raw_scores": True})[0]
    assert [item["score"] for item in logits] != [item["score"] for item in ranked]


# --- counted without a text -------------------------------------------------------------------------------------------


def measurements(predictor: Predictor, *bodies: Any) -> dict[tuple[Any, ...], float]:
    """Answer bodies in one batch, and return what would be counted, by name and labels."""
    batch = predictor.preprocess([Request(Body(serialize_value(body), JSON_TYPE)) for body in bodies])
    predictor.inference(batch)
    predictor.postprocess(batch)
    return {(item.name, *item.labels): item.value for item in batch.report.measurements("3.0")}


def test_abstentions_are_counted(classifier: Predictor) -> None:
    def body(least: float) -> dict[str, Any]:
        return {"inputs": [TEXTS[0], TEXTS[1]], "parameters": {"min_confidence": least}}

    counted = measurements(classifier, body(0.01), body(0.999), {"inputs": TEXTS[0]})
    assert counted["bert_judged_answers_total",] == 4
    assert counted["bert_abstained_answers_total",] == 2
    assert ("bert_judged_answers_total",) not in measurements(classifier, TEXTS[0])


@pytest.mark.parametrize(("n_labels", "is_counted"), [(100, True), (101, False)])
def test_many_labels_are_not_counted(make_model: MakeModel, n_labels: int, is_counted: bool) -> None:
    """Each is a time series: no metric names them where they are more than a hundred, nor does the reference."""
    predictor = load_predictor(make_model(labels=tuple(f"label {number}" for number in range(n_labels))))
    assert any(name == "bert_labels_total" for name, *_ in measurements(predictor, TEXTS[0])) == is_counted
    reference = DriftReference({}, 100, 0.8)
    predictor.calibrate(ScoreCalibration("text-classification", FUNCTIONS["text-classification"], None, reference))
    (answer,) = map(response_json, ask(predictor, TEXTS[0]))
    ((label, _),) = predictor.task.judgements(predictor.task.parse(TEXTS[0], {}), answer)
    assert (label is not None) == is_counted


@pytest.fixture
def observed(load_main: LoadMain) -> Predictor:
    """Return a calibrated classifier with a reference."""
    features = {
        "tokens": Feature({"5": 0.5, "more": 0.5}, (5,)),
        "unknown_share": Feature({"0": 0.9, "more": 0.1}, (0.0,)),
        "score": Feature({"0.5": 0.5, "more": 0.5}, (0.5,)),
        "label": Feature({"anger": 0.25, "joy": 0.25, "fear": 0.25, "calm": 0.25}),
    }
    predictor = load_main("text-classification")
    predictor.calibrate(
        ScoreCalibration(
            "text-classification", FUNCTIONS["text-classification"], None, DriftReference(features, 100, 0.8)
        )
    )
    return predictor


def test_inputs_and_answers_are_counted_by_the_bins_of_the_reference(observed: Predictor) -> None:
    counted = measurements(observed, ["no", "word " * 30, "⁂ no"])
    bins = {(key[2], key[3]): value for key, value in counted.items() if key[0] == "bert_observed_total"}
    assert bins["tokens", "5"] + bins.get(("tokens", "more"), 0) == 3
    assert bins["tokens", "more"] == 1
    assert (bins["unknown_share", "0"], bins["unknown_share", "more"]) == (2, 1)
    for name in ("score", "label"):
        assert sum(value for (feature, _), value in bins.items() if feature == name) == 3
    answers = response_json(ask(observed, ["no", "word " * 30, "⁂ no"])[0])
    total = sum(value[0]["score"] for value in answers)
    assert counted["bert_confidence_total", "3.0"] == pytest.approx(total, abs=1e-4)


def test_raw_scores_and_other_operations_are_not_held_against_the_reference(observed: Predictor) -> None:
    raw = measurements(observed, {"inputs": "no", "parameters": {"raw": True}})
    assert not any(name == "bert_confidence_total" for name, *_ in raw)
    other = measurements(observed, {"inputs": "no", "parameters": {"operation": "embed"}})
    assert not any(name == "bert_observed_total" for name, *_ in other)


def test_what_cannot_be_read_is_refused() -> None:
    good = ScoreCalibration("rerank", {"sigmoid": LINE}, report={"scores": {}})
    assert ScoreCalibration.from_json(good.to_json()) == good
    damages: list[dict[str, Any]] = [{"functions": {"sigmoid": {}}}, {"functions": None}, {"nonconformity": 3}]
    for damaged in ({}, *({**good.to_json(), **damage} for damage in damages)):
        with pytest.raises(ModelMismatch, match=r"calibration\.json cannot be read"):
            ScoreCalibration.from_json(damaged)
