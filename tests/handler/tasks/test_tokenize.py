"""tokenize: what the model's own tokenizer gives, as far as one sequence holds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import loads
from tests.support.samples import TEXTS, MakeModel, MakePredictor, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer


def expected_of(reference: Any, text: str, pair: str | None = None) -> dict[str, Any]:
    """Return the answer that a tokenizer of transformers should give."""
    tokens = reference(text, pair, truncation=True, return_offsets_mapping=True)
    owners = tokens.sequence_ids()
    whole = reference(text, pair, truncation=False, verbose=False)["input_ids"]
    return {
        "tokens": reference.convert_ids_to_tokens(tokens["input_ids"]),
        "ids": tokens["input_ids"],
        "offsets": [
            None if owner is None else list(span) for owner, span in zip(owners, tokens["offset_mapping"], strict=True)
        ],
        "sequence_ids": owners,
        "n_tokens": len(tokens["input_ids"]),
        "n_truncated": len(whole) - len(tokens["input_ids"]),
    }


def test_tokens_equal_transformers(predictor: Predictor, model_folder: Path) -> None:
    """Texts and pairs of every script, and such as are cut; no model is run."""
    reference = AutoTokenizer.from_pretrained(model_folder, model_max_length=512)
    pairs = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    (reply,) = ask(predictor, [*TEXTS, *pairs], operation="tokenize")
    expected = [expected_of(reference, text) for text in TEXTS]
    expected += [expected_of(reference, *pair.values()) for pair in pairs]
    assert response_json(reply) == expected
    assert expected[10]["n_truncated"] == 190
    for text, answer in zip(TEXTS[:2], response_json(reply), strict=False):
        spelled = [text[slice(*span)].lower() for span in answer["offsets"] if span]
        assert spelled == [token.removeprefix("##") for token in answer["tokens"][1:-1]]


def test_a_byte_level_tokenizer_equals_transformers(make_model: MakeModel) -> None:
    """Tokens as they stand in its vocabulary; offsets count characters, not bytes."""
    folder = make_model()
    byte_level_tokenizer().save_pretrained(folder)
    predictor = load_predictor(folder)
    reference = AutoTokenizer.from_pretrained(folder, model_max_length=predictor.tokenizer.max_length)
    (reply,) = ask(predictor, TEXTS, operation="tokenize")
    assert response_json(reply) == [expected_of(reference, text) for text in TEXTS]


def test_every_dialect_asks(predictor: Predictor, make_predictor: MakePredictor) -> None:
    """The shape of the answer follows that of the question; it may be all that a model is served for."""
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["It works."]}
    values: list[Any] = ["It works.", {"text": "It works."}, {"inputs": "It works."}, {"instances": ["It works."]}]
    plain, field, hugging, kserve, tensors = map(
        response_json, ask(predictor, *values, {"inputs": [tensor]}, operation="tokenize")
    )
    assert plain == field == hugging == kserve["predictions"][0] == loads(tensors["outputs"][0]["data"][0])
    assert response_json(ask(make_predictor(task="tokenize"), "It works.")[0]) == plain


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": "a", "next_sentence": "b"}, "unknown field, accepted: text, text_pair"),
        ({"text": "a", "text_pair": None}, "text_pair must be a string, got null"),
        ({"inputs": "a", "parameters": {"top_k": 1}}, "unknown parameter, accepted: none"),
    ],
    ids=str,
)
def test_bad_questions(predictor: Predictor, value: Any, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(predictor, value, "fine", operation="tokenize")
    assert (bad.status, good.status) == (422, 200)
    assert re.search(message, response_json(bad)["message"])


def test_what_the_operator_refuses_is_refused(make_predictor: MakePredictor) -> None:
    """Under `refuse` the count of tokens is in the message."""
    (reply,) = ask(make_predictor(overflow="refuse"), TEXTS[10], operation="tokenize")
    assert (reply.status, response_json(reply)["message"]) == (413, "text has 702 tokens, accepted: at most 512")
