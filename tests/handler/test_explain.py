"""Explanations: words that add up to the score, equal to an integration by hand, and harmless to their neighbours."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
import torch
import transformers

from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import Request
from tests.support.samples import TEXTS, MakeModel, MakePredictor, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer

SHORT = [text for text in TEXTS if len(text) < 100]
PAIR = {"text": "The screen went black.", "text_pair": "Is that covered, please?"}


@pytest.fixture(scope="module")
def trained(make_model: MakeModel) -> Path:
    """Return a model whose scores are far from those of its baseline, as those of a trained model are."""
    return make_model(initializer_range=0.4)


def explain(predictor: Predictor, *values: Any) -> list[Any]:
    """Ask for explanations in one batch."""
    responses = ask(predictor, *values, explain=True)
    assert [response.status for response in responses] == [200] * len(responses)
    return [response_json(response) for response in responses]


def scored_embeddings(
    folder: Path, text: str, label: int
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return what gives the probability of a label, the embeddings of a text, and its baseline, of transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    ids = encoded["input_ids"]
    padded = torch.where(encoded["special_tokens_mask"].bool(), ids, tokenizer.pad_token_id)
    table = model.get_input_embeddings()
    end, start = table(ids).detach(), table(padded).detach()

    def score(embeddings: torch.Tensor) -> torch.Tensor:
        scored: torch.Tensor = model(inputs_embeds=embeddings).logits.softmax(-1)[:, label]
        return scored

    return score, end, start


def by_hand(folder: Path, text: str, label: int, n_steps: int = 400) -> tuple[list[float], float, float]:
    """Integrate the gradients of a label's probability with plain transformers, by the midpoint rule.

    Returns:
        What each token contributes, the score of the text, and that of the baseline.
    """
    score, end, start = scored_embeddings(folder, text, label)
    total = torch.zeros_like(end)
    for step in range(n_steps):
        point = (start + (step + 0.5) / n_steps * (end - start)).requires_grad_(True)
        total += torch.autograd.grad(score(point).sum(), point)[0]
    tokens = ((end - start) * total / n_steps).sum(-1)[0].tolist()
    return tokens, score(end).item(), score(start).item()


@pytest.mark.parametrize("text", SHORT)
def test_words_add_up_to_the_score(trained: Path, text: str) -> None:
    """The attributions are the score less that of the baseline, up to the reported error."""
    predictor = load_predictor(trained)
    (answer,) = explain(predictor, text)
    (predicted,) = ask(predictor, text)
    assert answer["label"] == response_json(predicted)[0]["label"]
    assert answer["score"] == pytest.approx(response_json(predicted)[0]["score"], abs=1e-5)
    total = sum(word["attribution"] for word in answer["words"])
    assert total - (answer["score"] - answer["baseline_score"]) == pytest.approx(answer["convergence_delta"], abs=1e-5)
    assert abs(answer["convergence_delta"]) < 0.02


def test_attributions_equal_an_integration_by_hand(trained: Path) -> None:
    """Words of one token each: the same numbers as with plain transformers and ten times the steps."""
    text = "the screen went black today"
    predictor = load_predictor(trained)
    (answer,) = explain(predictor, {"inputs": text, "parameters": {"target": "fear", "n_steps": 128}})
    tokens, score, baseline = by_hand(trained, text, predictor.task.labels.index("fear"))
    assert (answer["score"], answer["baseline_score"]) == pytest.approx((score, baseline), abs=1e-5)
    assert [word["attribution"] for word in answer["words"]] == pytest.approx(tokens[1:-1], abs=2e-3)
    assert tokens[0] == tokens[-1] == 0


def test_attributions_equal_those_of_captum(trained: Path) -> None:
    """The same rule, steps and baseline: the same numbers."""
    from captum.attr import IntegratedGradients  # type: ignore[import-untyped]

    text = "the screen went black today"
    predictor = load_predictor(trained)
    (answer,) = explain(predictor, {"inputs": text, "parameters": {"target": "fear", "n_steps": 64}})
    score, end, start = scored_embeddings(trained, text, predictor.task.labels.index("fear"))
    expected = IntegratedGradients(score).attribute(end, start, n_steps=answer["n_steps"])[0].sum(-1).tolist()
    assert [word["attribution"] for word in answer["words"]] == pytest.approx(expected[1:-1], abs=1e-6)


def test_words_are_those_of_the_text(predictor: Predictor) -> None:
    """Whole words with their characters, not pieces of words; of a pair, with the field they stand in."""
    text = "L'écran 👍 of pneumonoultramicroscopic  屏幕"
    (single, pair) = explain(predictor, text, PAIR)
    assert [word["word"] for word in single["words"]] == [
        "L",
        "'",
        "écran",
        "👍",
        "of",
        "pneumonoultramicroscopic",
        "屏",
        "幕",
    ]
    assert all(text[word["start"] : word["end"]] == word["word"] for word in single["words"])
    assert "field" not in single["words"][0]
    for word in pair["words"]:
        assert PAIR[word["field"]][word["start"] : word["end"]] == word["word"]
    assert {word["field"] for word in pair["words"]} == {"text", "text_pair"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_have_their_accents(predictor: Predictor, make_model: MakeModel, form: Any) -> None:
    """Composed or decomposed; a byte-level tokenizer does not tear them."""
    text = unicodedata.normalize(form, "José Müller मैं हिन्दी")
    folder = make_model()
    byte_level_tokenizer().save_pretrained(folder)
    for model in (predictor, load_predictor(folder)):
        (answer,) = explain(model, text)
        assert [word["word"] for word in answer["words"] if word["word"]] == text.split()


def test_any_target_and_only_the_top_words(predictor: Predictor) -> None:
    """A label that is not the best one; the heaviest words, still in the order of the text."""
    parameters = {"target": "calm", "top_words": 3}
    (unlimited,) = explain(predictor, {"inputs": SHORT[0], "parameters": {"target": "calm"}})
    (short,) = explain(predictor, {"inputs": SHORT[0], "parameters": parameters})
    assert unlimited["label"] == "calm"
    heaviest = sorted(unlimited["words"], key=lambda word: -abs(word["attribution"]))[:3]
    assert [word["word"] for word in short["words"]] == [
        word["word"] for word in unlimited["words"] if word["start"] in {answer["start"] for answer in heaviest}
    ]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target": "nobody"}, "target must be one of the labels: anger, joy, fear, calm"),
        ({"target": ["joy"]}, "target must be one of the labels: anger, joy, fear, calm"),
        ({"n_steps": 0}, "n_steps must be a whole number from 1 to 256, got 0"),
        ({"n_steps": 10_000}, "n_steps must be a whole number from 1 to 256, got 10000"),
        ({"top_words": "all"}, "top_words must be a whole number of 1 or more, got a string"),
        ({"top_wrods": 1}, "unknown parameter, accepted: top_k, function_to_apply"),
    ],
    ids=str,
)
def test_a_bad_question_is_422(predictor: Predictor, parameters: Any, message: str) -> None:
    """The message says what is accepted."""
    (response,) = ask(predictor, {"inputs": "a", "parameters": parameters}, explain=True)
    assert response.status == 422
    assert response_json(response)["message"].startswith(message)


def test_explanations_among_predictions(predictor: Predictor) -> None:
    """In one batch: the same explanations, and predictions that do not differ by a bit."""

    def request(text: str, explain: bool) -> Request:
        return Request(Body(serialize_value(text), "application/json"), explain=explain)

    mixed = predictor.answer([request(text, index % 2 == 0) for index, text in enumerate(SHORT)])
    alone = [predictor.answer([request(text, index % 2 == 0)])[0] for index, text in enumerate(SHORT)]
    plain = predictor.answer([request(text, False) for text in SHORT])
    assert [response.status for response in mixed] == [200] * len(SHORT)
    for index in range(len(SHORT)):
        if index % 2:
            assert mixed[index].content == plain[index].content
        else:
            assert response_json(mixed[index])["label"] == response_json(alone[index])["label"]
            assert response_json(mixed[index])["score"] == pytest.approx(response_json(alone[index])["score"], abs=1e-5)


def test_time_that_runs_out_costs_only_explanations(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not explained in time is 503; the prediction beside it is answered."""
    predictor = load_predictor(model_folder, timeout_s=1000)
    monkeypatch.setattr("handler.engine.gradients.time", SimpleNamespace(monotonic=lambda: math.inf))
    body = Body(b'"Where is it?"', "application/json")
    explained, predicted = predictor.answer([Request(body, explain=True), Request(body)])
    assert (explained.status, response_json(explained)["type"]) == (503, "Overloaded")
    assert predicted.status == 200


def test_every_codec(predictor: Predictor) -> None:
    """KServe v1 wants predictions beside explanations, the others explanations alone; errors stay with their items."""
    texts = ["Where is it?", ""]
    hugging = explain(predictor, {"inputs": texts[0]})[0]
    (kserve,) = explain(predictor, {"instances": texts, "parameters": {"on_error": "report"}})
    assert kserve["explanations"][0] == hugging
    assert kserve["predictions"][0][0]["label"] == hugging["label"]
    assert kserve["explanations"][1]["error"]["code"] == kserve["predictions"][1]["error"]["code"] == 422
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": texts[:1]}
    (answered,) = explain(predictor, {"inputs": [tensor]})
    assert answered["outputs"][0]["name"] == "answer"


@pytest.mark.parametrize(
    ("architecture", "config", "settings"),
    [
        ("RobertaForSequenceClassification", "RobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
        ("DistilBertForSequenceClassification", "DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 4}),
        ("ElectraForSequenceClassification", "ElectraConfig", {"embedding_size": 16}),
        ("AlbertForSequenceClassification", "AlbertConfig", {"embedding_size": 16}),
        ("MPNetForSequenceClassification", "MPNetConfig", {"pad_token_id": 1}),
    ],
)
def test_other_families(make_model: MakeModel, architecture: str, config: str, settings: dict[str, Any]) -> None:
    """Packed or padded, with other embeddings than BERT's: words add up."""
    folder = make_model(
        architecture=getattr(transformers, architecture), config_class=getattr(transformers, config), **settings
    )
    (answer,) = explain(load_predictor(folder), SHORT[0])
    total = sum(word["attribution"] for word in answer["words"])
    assert total == pytest.approx(answer["score"] - answer["baseline_score"] + answer["convergence_delta"], abs=1e-5)


def test_multi_label_and_regression(make_model: MakeModel) -> None:
    """A sigmoid of its own per label; a number as it is."""
    for problem, labels in (("multi_label_classification", ("a", "b")), ("regression", ("stars",))):
        predictor = load_predictor(make_model(problem, labels))
        (answer,) = explain(predictor, SHORT[0])
        assert answer["score"] == pytest.approx(response_json(ask(predictor, SHORT[0])[0])[0]["score"], abs=1e-5)


def test_a_long_text_is_explained_in_the_window_that_decides(make_predictor: MakePredictor) -> None:
    """Under `window` the words are those of the window with the highest score of the target."""
    predictor = make_predictor(overflow="window", max_length=32, stride=4)
    text = " ".join(SHORT)
    (answer,) = explain(predictor, {"inputs": text, "parameters": {"target": "joy"}})
    first, last = answer["words"][0], answer["words"][-1]
    assert all(text[word["start"] : word["end"]] == word["word"] for word in answer["words"])
    assert last["end"] - first["start"] < len(text) / 2


# --- entities and answers ----------------------------------------------------------------------------------------

LETTER = "Ada Lovelace wrote to Charles Babbage in London on a Monday, and nobody answered her letter."
QUESTION = {"question": "Who wrote the letter?", "context": LETTER}


def sums(explanation: Any) -> float:
    """Return how far the words are from adding up to the score, without the reported error."""
    total = sum(word["attribution"] for word in explanation["words"]) - explanation["convergence_delta"]
    return float(total - (explanation["score"] - explanation["baseline_score"]))


@pytest.fixture(scope="module")
def tagger(make_model: MakeModel) -> Predictor:
    """Return a model that sees entities of random places."""
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    folder = make_model(
        architecture=transformers.BertForTokenClassification,
        labels=labels,
        initializer_range=0.4,
        whole_vocabulary=True,
    )
    return load_predictor(folder)


@pytest.fixture(scope="module")
def reader(make_model: MakeModel) -> Predictor:
    """Return a model that answers with random spans."""
    folder = make_model(
        architecture=transformers.BertForQuestionAnswering, labels=("start", "end"), initializer_range=0.4
    )
    return load_predictor(folder)


def test_an_entity_is_explained(tagger: Predictor) -> None:
    """By default the one of the best score; a character chooses another, and any label of its word."""
    entities = response_json(ask(tagger, LETTER)[0])
    (answer,) = explain(tagger, LETTER)
    assert answer["label"] in {entity["entity_group"] for entity in entities}
    assert sums(answer) == pytest.approx(0, abs=1e-5)
    for entity in entities:
        body = {"inputs": LETTER, "parameters": {"target": entity["start"]}}
        (answer,) = explain(tagger, body)
        assert (answer["label"], answer["score"]) == (entity["entity_group"], pytest.approx(entity["score"], abs=1e-5))
        assert sums(answer) == pytest.approx(0, abs=1e-5)
    (other,) = explain(tagger, {"inputs": LETTER, "parameters": {"target": {"start": 4, "label": "B-LOC"}}})
    tokens = response_json(ask(tagger, {"inputs": LETTER, "parameters": {"aggregation_strategy": "none"}})[0])
    assert other["label"] == "B-LOC"
    assert other["score"] <= max([token["score"] for token in tokens if token["start"] == 4], default=1)


def test_a_word_without_entity_is_explained(tagger: Predictor) -> None:
    """Why it is none: the word alone, not all that is none around it."""
    tokens = response_json(
        ask(tagger, {"inputs": LETTER, "parameters": {"aggregation_strategy": "none", "ignore_labels": []}})[0]
    )
    outside = next(token for token in tokens if token["entity"] == "O")
    (answer,) = explain(tagger, {"inputs": LETTER, "parameters": {"target": outside["start"]}})
    assert (answer["label"], answer["score"]) == ("O", pytest.approx(outside["score"], abs=1e-5))


def test_an_answer_is_explained(reader: Predictor) -> None:
    """Start and end, each with the words of question and context that speak for it."""
    parameters = {"max_answer_len": 3, "align_to_words": False}
    answer = response_json(ask(reader, {"inputs": QUESTION, "parameters": parameters})[0])
    (explained,) = explain(reader, {"inputs": QUESTION, "parameters": parameters})
    assert explained["answer"] == answer
    assert explained["start"]["score"] * explained["end"]["score"] == pytest.approx(answer["score"], abs=1e-5)
    for edge in ("start", "end"):
        assert explained[edge]["label"] == edge
        assert sums(explained[edge]) == pytest.approx(0, abs=1e-5)
        assert {word["field"] for word in explained[edge]["words"]} == {"question", "context"}
        for word in explained[edge]["words"]:
            assert QUESTION[word["field"]][word["start"] : word["end"]] == word["word"]


def test_another_span_and_none_at_all(reader: Predictor) -> None:
    """A span that was not the answer; and the empty answer, which the first token stands for."""
    (other,) = explain(reader, {"inputs": QUESTION, "parameters": {"target": {"start": 4, "end": 12}}})
    best = response_json(ask(reader, {"inputs": QUESTION, "parameters": {"top_k": 1}})[0])
    assert other["start"]["score"] * other["end"]["score"] <= best["score"] + 1e-5
    body = {"inputs": QUESTION, "parameters": {"handle_impossible_answer": True, "top_k": 100}}
    none = next(answer for answer in response_json(ask(reader, body)[0]) if not answer["answer"])
    (nothing,) = explain(reader, {"inputs": QUESTION, "parameters": {"target": {"start": 0, "end": 0}}})
    assert nothing["start"]["score"] * nothing["end"]["score"] == pytest.approx(none["score"], abs=1e-6)


def test_long_texts_are_explained_where_they_are_read(tagger: Predictor, reader: Predictor) -> None:
    """In the window that shows most around the target, with offsets in the whole text."""
    filler = "The weather was fine. " * 150
    text = filler + LETTER + filler
    (answer,) = explain(tagger, {"inputs": text, "parameters": {"target": len(filler), "n_steps": 1}})
    assert all(text[word["start"] : word["end"]] == word["word"] for word in answer["words"])
    assert answer["words"][0]["start"] < len(filler) < answer["words"][-1]["start"]
    item = {"question": "Who?", "context": text}
    target = {"start": len(filler), "end": len(filler) + 3}
    (explanation,) = explain(reader, {"inputs": item, "parameters": {"target": target, "n_steps": 1}})
    for word in explanation["start"]["words"]:
        assert item[word["field"]][word["start"] : word["end"]] == word["word"]


@pytest.mark.parametrize("target", ["PER", -1, 10_000, {"start": 0, "label": "nobody"}, {"start": "0"}, [], True])
def test_a_target_that_is_no_place_of_the_text(tagger: Predictor, reader: Predictor, target: Any) -> None:
    """422, and the message says what a target is."""
    for predictor, item in ((tagger, LETTER), (reader, QUESTION)):
        (response,) = ask(predictor, {"inputs": item, "parameters": {"target": target}}, explain=True)
        assert (response.status, response_json(response)["message"][:9]) == (
            422,
            "target mu" if target not in (-1, 10_000) else ANY,
        )


@pytest.mark.parametrize(
    ("error", "said", "logged"),
    [
        (ImportError("libtorch_cpu.so: no such file"), "(ImportError): PyTorch cannot be imported", "libtorch_cpu.so"),
        (OSError("libgomp.so.1: cannot open"), "(OSError): PyTorch cannot be imported", "libgomp"),
        (
            FileNotFoundError(2, "No such file", "model.safetensors"),
            "(FileNotFoundError): register",
            "model.safetensors",
        ),
        (RuntimeError("a secret text"), "(RuntimeError): register the archive again", "(RuntimeError)"),
    ],
)
def test_gradients_that_cannot_be_loaded_are_said(
    model_folder: Path, error: Exception, said: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What failed and what to do, to client and operator; predictions of the same batch are answered."""
    predictor = load_predictor(model_folder)

    def fail() -> None:
        raise error

    predictor.engine.with_gradients = fail  # type: ignore[method-assign, assignment]
    explained, predicted = predictor.answer(
        [Request(Body(b'"Where is it?"', "application/json"), explain=explain) for explain in (True, False)]
    )
    assert (explained.status, predicted.status) == (503, 200)
    assert said in explained.content.decode()
    assert logged in caplog.text
    assert "secret" not in caplog.text + explained.content.decode()
