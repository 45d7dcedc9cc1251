"""Entities: equal to the pipeline of transformers, told once over windows, and right by the scheme of the labels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForTokenClassification,
    BertForTokenClassification,
    RobertaConfig,
    RobertaForTokenClassification,
    pipeline,
)

from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON
from handler.tag_scheme import LabelSpans
from handler.tasks import SequenceOutput
from handler.tasks.items import VISIBLE
from handler.tasks.token_classification import AGGREGATION_STRATEGIES, TokenClassification
from tests.support.samples import TEXTS, MakeModel, ask, check_codecs, response_json
from tests.support.tokenizers import DIFFICULT_TEXTS, byte_level_tokenizer

torch.set_num_threads(1)

IOB = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BILOU = ("O", "B-PER", "I-PER", "L-PER", "U-PER", "U-LOC")
IOBES = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC")
BLANKS = " \t\r\n\u200b\ufeff"
SPACED_TEXTS = [
    "The screen went black after two days and the shop does not answer my letters",
    "Where is my parcel",
    "the shop does not answer",
]
LONG = " ".join([*TEXTS[:10], *DIFFICULT_TEXTS[:6]]) * 2


@pytest.fixture(scope="module")
def folder(make_model: MakeModel) -> Path:
    """Return a random model with labels in IOB."""
    return make_model(problem_type=None, labels=IOB, architecture=BertForTokenClassification)


@pytest.fixture(scope="module")
def near_sighted(make_model: MakeModel) -> Path:
    """Return a model that heeds what is beside a token so little that windows agree, not to the last digit."""
    folder = make_model(None, IOB, BertForTokenClassification, whole_vocabulary=True)
    return blinker(folder, 0.01)


@pytest.fixture(scope="module")
def blind(make_model: MakeModel) -> Path:
    """Return a model that sees every token alone, so that windows agree to the last digit."""
    return blinker(make_model(problem_type=None, labels=IOB, architecture=BertForTokenClassification), 0)


def blinker(folder: Path, share: float) -> Path:
    """Leave a model a share of what it sees beside a token."""
    model = AutoModelForTokenClassification.from_pretrained(folder)
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight *= share / 3
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight *= share
    model.save_pretrained(folder)
    return folder


def published(folder: Path, max_length: int | None = None) -> Any:
    """Load the pipeline of transformers."""
    loaded: Any = pipeline("token-classification", str(folder), device="cpu")
    loaded.tokenizer.model_max_length = max_length or loaded.tokenizer.model_max_length
    return loaded


def serve(folder: Path, **settings: Any) -> Predictor:
    """Load a predictor with some settings."""
    return load_predictor(folder, ServingConfig(**settings))


def assert_equal(got: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = 2e-5) -> None:
    """Compare with the pipeline: all fields, scores with a tolerance."""
    scores = [[one["score"] for one in entities] for entities in (got, expected)]
    bare = [[{key: one[key] for key in one if key != "score"} for one in entities] for entities in (got, expected)]
    assert bare[0] == bare[1]
    assert scores[0] == pytest.approx(scores[1], abs=tolerance)


def whole_characters(text: str, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Extend the pipeline's spans to grapheme clusters, which it cuts where a token does not cover an accent."""
    edges = [*(match.start() for match in regex.finditer(r"\X", text)), len(text)]
    return [
        entity
        | {
            "start": max(edge for edge in edges if edge <= entity["start"]),
            "end": min(edge for edge in edges if edge >= entity["end"]),
        }
        for entity in entities
    ]


@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES)
def test_entities_equal_the_pipeline(folder: Path, strategy: str) -> None:
    """Every field, for every script, with and without labels to ignore, many texts in one request."""
    predictor = serve(folder, overflow="truncate")
    reference = published(folder)
    for ignore in ([], ["O"], ["PER", "B-LOC"]):
        parameters = {"aggregation_strategy": strategy, "ignore_labels": ignore}
        texts = [*TEXTS, *DIFFICULT_TEXTS]
        got = response_json(ask(predictor, {"inputs": texts, "parameters": parameters})[0])
        for text, answer in zip(texts, got, strict=True):
            expected = reference(text, **parameters)
            assert_equal(answer, expected if strategy == "none" else whole_characters(text, expected))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES)
def test_byte_level_tokens_equal_the_pipeline(make_model: MakeModel, strategy: str) -> None:
    """Where no token is a blank alone and no word has a punctuation mark; of these the pipeline makes words."""
    settings = {"config_class": RobertaConfig, "pad_token_id": 1, "type_vocab_size": 1}
    folder = make_model(None, IOB, RobertaForTokenClassification, **settings)
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(folder)
    predictor = serve(folder, overflow="truncate")
    reference = published(folder, predictor.tokenizer.max_length)
    texts = [*TEXTS, *DIFFICULT_TEXTS, *SPACED_TEXTS]
    if strategy != "none":
        texts = [text for text in texts if not {"Ġ", "Ċ", "ĉ", "č"} & {*tokenizer.tokenize(text)}]
    if strategy not in ("none", "simple"):
        texts = [text for text in texts if text.isascii() and text.replace(" ", "").isalpha()]
    assert len(texts) >= len(SPACED_TEXTS)
    for text in texts:
        parameters = {"aggregation_strategy": strategy, "ignore_labels": ["I-PER", "LOC"]}
        (answer,) = response_json(ask(predictor, {"inputs": [text], "parameters": parameters})[0])
        expected = reference(text, **parameters)
        if strategy == "none":
            for token in expected:
                slice_ = text[token["start"] : token["end"]]
                token["start"] += len(slice_) - len(slice_.lstrip(BLANKS))
        assert_equal(answer, expected if strategy == "none" else whole_characters(text, expected))


@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES[1:])
@pytest.mark.parametrize("stride", [8, 24])
def test_windows_equal_the_pipelines(near_sighted: Path, strategy: str, stride: int) -> None:
    """Where windows agree on the entities, each is told once with the pipeline's score, the best of its windows."""
    predictor = serve(near_sighted, max_length=64)
    reference = published(near_sighted, 64)
    text = "The old man from Berlin took his two dogs to Paris, where Maria has a house near the river. " * 12
    parameters = {"aggregation_strategy": strategy, "stride": stride}
    (answer,) = response_json(ask(predictor, {"inputs": [text], "parameters": parameters})[0])
    expected = reference(text, **parameters)
    assert len(expected) > 40
    assert_equal(answer, expected)
    alone = serve(near_sighted, max_length=64, overflow="refuse")
    assert ask(alone, text)[0].status == 413


@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES)
@pytest.mark.parametrize("stride", [0, 5, 24, 10_000])
def test_windows_equal_the_whole_text(blind: Path, strategy: str, stride: int) -> None:
    """Words and entities across the edges of windows are whole; nothing is lost or told twice, `index` counts on."""
    parameters = {"aggregation_strategy": strategy, "stride": stride, "ignore_labels": []}
    question = {"inputs": LONG, "parameters": parameters}
    (reference,) = ask(serve(blind), question)
    whole = response_json(reference)
    assert reference.headers["x-batch-texts"] == "1"
    (reply,) = ask(serve(blind, max_length=50), question)
    assert_equal(response_json(reply), whole)
    assert "x-truncated-tokens" not in reply.headers
    assert int(reply.headers["x-batch-texts"]) > 7


def decide(predictor: Predictor, text: str, labels: list[str], strategy: str = "simple", **options: Any) -> list[Any]:
    """Decode hand-made logits: the given label of each token, whatever window shows it."""
    task = predictor.task
    assert isinstance(task, TokenClassification)
    query = task.parse(text, {"aggregation_strategy": strategy, **options})
    (encodings,) = predictor.tokenizer.encode(query.texts, [query.encoding_options])
    assert isinstance(encodings, list)
    windows = []
    for encoding in encodings:
        logits = np.zeros((len(encoding), len(task.labels)), np.float32)
        spans = encoding.spans
        assert spans is not None
        for index, (position, sequence_id) in enumerate(zip(spans.positions, spans.sequence_ids, strict=True)):
            logits[index, task.labels.index(labels[position - 1]) if sequence_id == 0 else 0] = 9
        windows.append(SequenceOutput(0, encoding, logits))
    entities: list[Any] = task.decode(query, windows)
    assert all(entity["score"] == pytest.approx(1, abs=1e-2) for entity in entities)
    return [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in entities]


@pytest.mark.parametrize(
    ("labels", "close", "alone"), [(BILOU, "L-PER", "U"), (IOBES, "E-PER", "S")], ids=["BILOU", "IOBES"]
)
@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES[1:])
def test_entities_follow_the_scheme_of_the_labels(
    make_model: MakeModel, labels: tuple[str, ...], close: str, alone: str, strategy: str
) -> None:
    """One entity a U- or S-, an end at each L- or E-, neighbours of one type apart; broken rows still make sense."""
    predictor = serve(make_model(problem_type=None, labels=labels, architecture=BertForTokenClassification))
    text = "one two three four five six"
    person, place = f"{alone}-PER", f"{alone}-LOC"
    cases: dict[tuple[str, ...], list[tuple[str, str]]] = {
        ("B-PER", "I-PER", close, "O", person, place): [("PER", "one two three"), ("PER", "five"), ("LOC", "six")],
        (person, person, "B-PER", close, "B-PER", close): [
            *[("PER", "one"), ("PER", "two"), ("PER", "three four"), ("PER", "five six")]
        ],
        (close, close, "I-PER", "I-PER", person, "I-PER"): [
            *[("PER", "one"), ("PER", "two"), ("PER", "three four"), ("PER", "five"), ("PER", "six")]
        ],
        ("B-PER", "O", "I-PER", "B-PER", "I-PER", place): [
            *[("PER", "one"), ("PER", "three"), ("PER", "four five"), ("LOC", "six")]
        ],
    }
    for row, expected in cases.items():
        assert decide(predictor, text, list(row), strategy) == expected


def test_labels_without_a_scheme_are_read_as_the_pipeline_does() -> None:
    """Prefixes that only look like BILOU do not make it one."""
    for labels in (["O", "E-mail", "S-bahn"], ["O", "B-X", "E-X", "Z-X"], ["NOUN", "B-X", "I-X"], ["B-PER-A", "L"]):
        assert not LabelSpans.from_labels(labels).closes.any()
    assert LabelSpans.from_labels(["O", "B-PER-A", "E-PER-A"]).groups == ["O", "PER-A", "PER-A"]


@pytest.mark.parametrize("stride", [0, 4])
def test_an_entity_across_windows_is_one(make_model: MakeModel, stride: int) -> None:
    """However long it is, and wherever a window cuts it."""
    predictor = serve(make_model(None, IOB, BertForTokenClassification), max_length=12)
    text = "one two three four five six seven eight nine ten " * 3
    for start in range(20):
        for length in (1, 3, 25):
            labels = ["O"] * 30
            labels[start : start + length] = ["B-PER", *["I-PER"] * (length - 1)]
            expected = " ".join(text.split()[start : start + length])
            assert decide(predictor, text, labels, stride=stride) == [("PER", expected)]


@pytest.fixture(scope="module")
def windowed(folder: Path) -> Predictor:
    """Return a predictor that reads nearly everything through windows."""
    return serve(folder, max_length=12)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.text(max_size=40), min_size=1, max_size=4), st.sampled_from(AGGREGATION_STRATEGIES), st.integers(0, 8)
)
def test_offsets_lie_in_the_text_and_entities_apart(
    windowed: Predictor, texts: list[str], strategy: str, stride: int
) -> None:
    """Whatever the characters; entities share one only where the tokenizer takes it apart."""
    for text in texts:
        parameters = {"aggregation_strategy": strategy, "stride": stride, "ignore_labels": []}
        (reply,) = ask(windowed, {"inputs": text, "parameters": parameters})
        if not VISIBLE.search(text):
            assert reply.status == 422
            continue
        answer = response_json(reply)
        assert all(0 <= one["start"] <= one["end"] <= len(text) for one in answer)
        assert all(0 < one["score"] <= 1 for one in answer)
        for one, other in itertools.pairwise(answer):
            assert one["start"] <= other["start"]
            assert other["start"] >= one["end"] - 1


def test_tokens_that_share_no_character_make_entities_that_share_none(folder: Path) -> None:
    """Nothing overlaps over long texts of every script that BERT reads a character at most a token."""
    predictor = serve(folder, max_length=20)
    for text in [*TEXTS, *DIFFICULT_TEXTS[:5]]:
        answer = response_json(ask(predictor, {"inputs": text, "parameters": {"ignore_labels": []}})[0])
        assert all(one["end"] <= other["start"] for one, other in itertools.pairwise(answer))
        assert "".join(text[one["start"] : one["end"]] for one in answer).strip()


def test_every_dialect_answers(folder: Path) -> None:
    """A flat list for one text, as Hugging Face's client reads it; JSON in a tensor over Open Inference v2."""
    predictor = serve(folder)
    texts = TEXTS[:3]
    single = response_json(ask(predictor, texts[0])[0])
    assert single[0].keys() == {"entity_group", "score", "word", "start", "end"}
    v2 = {"inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": texts}]}
    replies = ask(predictor, texts, {"inputs": texts[0]}, {"inputs": texts}, {"instances": texts}, v2)
    check_codecs(predictor, texts, replies)
    (field,) = ask(predictor, {"text": texts[0]})
    assert predictor.task.answers_match(single, response_json(field), 1e-5)
    assert predictor.operations["predict"] is predictor.operations["entities"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": 3}, "text must be a string, got a number"),
        ({"text": " "}, "text is empty"),
        ({"text": "a", "context": "b"}, "unknown field, accepted: text"),
        ({"inputs": "a", "parameters": {"stride": -1}}, "stride must be a whole number of 0 or more, got -1"),
        (
            {"inputs": "a", "parameters": {"aggregation_strategy": "best"}},
            "aggregation_strategy must be one of none, simple, first, average, max",
        ),
        ({"inputs": "a", "parameters": {"ignore_labels": "O"}}, "ignore_labels must be a list of strings"),
        (
            {"inputs": "a", "parameters": {"top_k": 1}},
            "unknown parameter, accepted: aggregation_strategy, ignore_labels, stride",
        ),
    ],
)
def test_bad_input_is_422(folder: Path, value: JSON, message: str) -> None:
    """The message names the field and what is accepted."""
    (reply,) = ask(serve(folder), value)
    assert (reply.status, response_json(reply)["message"]) == (422, message)


def test_golden_answers_bear_what_precision_changes_and_no_more(folder: Path) -> None:
    """Half the precision and the other layout agree with fp32, packed; other weights do not."""
    items, parameters = list(TokenClassification.self_test_items), TokenClassification.self_test_parameters
    predictor = serve(folder)
    task = predictor.task
    golden = predictor.answer_items(items, parameters)
    padded = load_predictor(folder, packed=False).answer_items(items, parameters)
    assert all(task.answers_match(*pair, 1e-4) for pair in zip(golden, padded, strict=True))
    other = [[{**token, "score": token["score"] - 2e-4} for token in answer] for answer in golden]
    assert not any(task.answers_match(*pair, 1e-4) for pair in zip(golden, other, strict=True))
    flip, far = [{"entity": "O", "score": 0.49}], [{"entity": "O", "score": 0.95}]
    assert task.answers_match(flip, [{"entity": "B-PER", "score": 0.48}], 0.05)
    assert not task.answers_match(flip, [{"entity": "B-PER", "score": 0.48}], 1e-4)
    assert not task.answers_match(far, [{"entity": "B-PER", "score": 0.95}], 0.05)
    assert not task.answers_match(golden[0], golden[1], 0.05)
