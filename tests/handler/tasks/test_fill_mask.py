"""fill-mask: every answer equals that of the pipeline of transformers on the same text."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import loads
from tests.support.samples import MakeModel, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer

load: Any = BertForPreTraining.from_pretrained  # untyped in transformers

FAIRSEQ = {"architecture": RobertaForMaskedLM, "config_class": RobertaConfig, "pad_token_id": 1, "type_vocab_size": 1}
MASKED = [
    "Where is my [MASK]?",
    "[MASK]",
    "The screen went [MASK] after two days  and the shop\ndoes not answer.",
    "L'écran est [MASK]: qui m'aide?",
    "屏幕[MASK]了，怎么办",
    "لا يعمل [MASK]",
    "👩‍👩‍👧‍👦 family [MASK], please 🙂",
    "Z̷̢͎a̵l̷g̵o[MASK]combining  marks   and   spaces",
    "[MASK] is the opposite of [MASK] - isn't it [PAD] so [SEP]?",
    "pneumonoultramicroscopic[MASK]silicovolcanoconiosis",
    "It is [MASK]. " + "word " * 700,
    "[MASK] " * 12,
]


@pytest.fixture(scope="module")
def bert(make_model: MakeModel) -> tuple[Predictor, Any]:
    """Make a masked BERT: our predictor and the pipeline over it."""
    folder = make_model(architecture=BertForMaskedLM)
    return load_predictor(folder), pipeline("fill-mask", str(folder), device="cpu")


def own_words(predictor: Predictor, text: str, expected: Any) -> Any:
    """Leave out the sequences of the pipeline where the vocabulary does not know a word, which they do not have."""
    ids = predictor.tokenizer.text_to_ids(text)
    if predictor.tokenizer.unknown_id not in ids:
        return expected
    if isinstance(expected[0], list):
        return [own_words(predictor, text, ranking) for ranking in expected]
    return [{key: value for key, value in item.items() if key != "sequence"} for item in expected]


def same(found: Any, expected: Any) -> bool:
    """Compare answers: the same tokens in the same order, with the same words, and scores as near as fp32 allows."""
    if isinstance(expected[0], list):
        return len(found) == len(expected) and all(map(same, found, expected))
    keys = [key for key in expected[0] if key != "score"]
    without = [[{key: item[key] for key in keys} for item in ranked] for ranked in (found, expected)]
    scores = [[item["score"] for item in ranked] for ranked in (found, expected)]
    return without[0] == without[1] and scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_every_text_equals_the_pipeline(bert: tuple[Predictor, Any]) -> None:
    """One mask or several, every script, texts longer than the model; alone and in one request."""
    predictor, reference = bert
    together = response_json(ask(predictor, {"inputs": MASKED})[0])
    for text, found in zip(MASKED, together, strict=True):
        expected = own_words(predictor, text, reference(text, tokenizer_kwargs={"truncation": True}))
        assert same(found, expected)
        assert same(response_json(ask(predictor, text)[0]), expected)


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 1},
        {"top_k": 16},
        {"targets": ["red", "parcel", "##ing", "red"]},
        {"targets": "unbelievably", "top_k": 3},
        {"targets": ["屏", "écran", "🙂"], "top_k": 2},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The specified target")
def test_parameters_equal_the_pipeline(bert: tuple[Predictor, Any], parameters: dict[str, Any]) -> None:
    """Numbers of tokens, and targets: words, pieces, words that are no token, twice the same."""
    predictor, reference = bert
    for text, found in zip(
        MASKED, response_json(ask(predictor, {"inputs": MASKED, "parameters": parameters})[0]), strict=True
    ):
        expected = reference(text, tokenizer_kwargs={"truncation": True}, **parameters)
        assert same(found, own_words(predictor, text, expected))


def test_unknown_words_are_those_of_the_text(bert: tuple[Predictor, Any]) -> None:
    """The pipeline leaves them out of `sequence`, or writes [UNK] where a text has several masks."""
    cases = {
        "The 🧌 is [MASK], Zürich.": "the 🧌 is red, zurich.",
        "🧌🧌 [MASK] [PAD] 🧌": "🧌🧌 red 🧌",
        "🧌 [UNK] is [MASK]": "🧌 [UNK] is red",
        "[MASK] 🧌 [MASK]": "[CLS] red 🧌 [MASK] [SEP]",
        "ha🧌 is [MASK]. " + "word " * 700: "ha🧌 is red. " + " ".join(["word"] * 506),
    }
    for text, expected in cases.items():
        value = {"inputs": text, "parameters": {"targets": ["red"]}}
        answer = response_json(ask(bert[0], value)[0])
        ranking = answer[0] if isinstance(answer[0], list) else answer
        assert ranking[0]["sequence"] == expected
    pipeline_says = bert[1]("The 🧌 is [MASK], Zürich.", targets=["red"])[0]["sequence"]
    assert pipeline_says == "the is red, zurich."


def test_a_byte_level_model_equals_the_pipeline(make_model: MakeModel) -> None:
    """RoBERTa's mask is called otherwise, and its tokens begin with their space."""
    tokenizer = byte_level_tokenizer()
    tokenizer.mask_token = "<mask>"
    folder = make_model(**FAIRSEQ, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    predictor, reference = load_predictor(folder), pipeline("fill-mask", str(folder), device="cpu")
    cut = {"truncation": True, "max_length": predictor.tokenizer.max_length}
    texts = [text.replace("[MASK]", "<mask>").replace("[PAD]", "<pad>") for text in MASKED]
    for parameters in ({}, {"targets": ["Ġword", "s", "."]}):
        found = response_json(ask(predictor, {"inputs": texts, "parameters": parameters})[0])
        for text, its in zip(texts, found, strict=True):
            assert same(its, reference(text, tokenizer_kwargs=cut, **parameters))
    assert "<mask>" in response_json(ask(predictor, "no")[0])["message"]


def test_both_heads_of_pretraining(make_model: MakeModel) -> None:
    """BERT as it was pretrained fills masks first, and judges next sentences too; Electra's head does neither."""
    folder = make_model(architecture=BertForPreTraining)
    predictor = load_predictor(folder)
    assert {"predict", "fill", "next-sentence"} <= predictor.operations.keys()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder)
    for text in MASKED[:4]:
        tokens = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**tokens).prediction_logits[tokens["input_ids"] == tokenizer.mask_token_id]
        best = logits.softmax(-1)[0].topk(5)
        found = response_json(ask(predictor, text)[0])
        assert [item["token"] for item in found] == best.indices.tolist()
        assert [item["score"] for item in found] == pytest.approx(best.values.tolist(), rel=1e-4)
    electra = make_model(architecture=ElectraForPreTraining, config_class=ElectraConfig, embedding_size=32)
    with pytest.raises(ModelMismatch, match="belongs to no task"):
        load_predictor(electra)


def test_every_dialect_asks(bert: tuple[Predictor, Any]) -> None:
    """The shape of the answer follows that of the question; queries of any targets share a batch."""
    predictor, _ = bert
    text = "The [MASK] works."
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    targets = {"parameters": {"targets": ["phone", "shop"]}}
    replies = ask(
        predictor,
        text,
        {"text": text},
        {"inputs": text},
        {"instances": [text]},
        {"inputs": [tensor]},
        {"inputs": text, **targets},
        {"text": text, **targets},
    )
    one, field, hugging, kserve, tensors, few, field_few = map(response_json, replies)
    assert one == field == hugging == kserve["predictions"][0]
    assert predictor.task.answers_match(one, loads(tensors["outputs"][0]["data"][0]), 0)
    assert few == field_few
    assert {item["token_str"] for item in few} == {"phone", "shop"}


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ("no mask here", 422, r"text must hold at least one \[MASK\]$"),
        ("word " * 700 + "[MASK]", 422, r"at least one \[MASK\] among its first 512 tokens"),
        ("[MASK] " * 60, 413, "60 masks and top_k is 5, accepted: at most 200"),
        ({"text": "[MASK]", "text_pair": "b"}, 422, "unknown field"),
        ({"inputs": "[MASK]", "parameters": {"top_k": 101}}, 422, "top_k must be a whole number from 1 to 100"),
        ({"inputs": "[MASK]", "parameters": {"targets": []}}, 422, "targets are 0, accepted: 1 to 1000"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["a", ""]}}, 422, r"targets\[1\] is empty"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["a", 7]}}, 422, "targets must be a list of strings or one"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["a" * 101]}}, 422, r"targets\[0\] has 101 characters"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["\u0301"]}}, 422, r"targets\[0\] holds nothing"),
        ({"inputs": "[MASK]", "parameters": {"targets": ["\u200b"]}}, 422, r"targets\[0\] holds no visible character"),
    ],
    ids=str,
)
def test_bad_questions(bert: tuple[Predictor, Any], value: Any, status: int, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(bert[0], value, "[MASK]")
    assert (bad.status, good.status) == (status, 200)
    assert re.search(message, response_json(bad)["message"])


def test_answers_do_not_repeat_a_text_without_end(bert: tuple[Predictor, Any]) -> None:
    """A word that the vocabulary does not have, of any length, stands in each of a hundred answers to each text."""
    text = "[MASK] " + "x" * 90_000
    bad, good = ask(bert[0], *({"inputs": [text] * n, "parameters": {"top_k": 100}} for n in (2, 1)))
    assert (bad.status, good.status) == (413, 200)
    assert re.search("repeat more than 16000000 characters", response_json(bad)["message"])


def test_two_answers_agree_by_token(bert: tuple[Predictor, Any]) -> None:
    """Tokens of nearly one score may change places or miss the cut; no other difference is let through."""
    agree = bert[0].task.answers_match

    def ranked(*scores: tuple[int, float], word: str = "a") -> Any:
        return [{"score": score, "token": n, "token_str": word, "sequence": word} for n, score in scores]

    known = ranked((1, 0.5), (2, 0.3), (3, 0.1))
    assert agree(known, ranked((2, 0.34), (1, 0.46), (4, 0.12)), 0.05)
    assert agree([known, known], [known, known], 0)
    assert not agree(known, ranked((1, 0.5), (2, 0.2), (3, 0.1)), 0.05)
    assert not agree(known, ranked((1, 0.5), (4, 0.3), (3, 0.1)), 0.05)
    assert not agree(known, ranked((1, 0.5), (2, 0.3), (3, 0.1), word="b"), 0.05)
    assert not agree(known, [known], 0.05)
    assert not agree(known, known[:2], 0.05)
