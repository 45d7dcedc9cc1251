"""Entities and answers in every script: the same for composed and decomposed text, with whole words and characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, BertForQuestionAnswering, BertForTokenClassification

from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import EncodingOptions
from handler.tasks import SequenceOutput
from handler.tasks.token_classification import AGGREGATION_STRATEGIES
from tests.support.samples import BASE, MakeModel, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer, cased_tokenizer, metaspace_tokenizer

torch.set_num_threads(1)

GRAPHEMES = regex.compile(r"\X").findall
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "uncased": lambda: AutoTokenizer.from_pretrained(BASE),
    "cased": cased_tokenizer,
    "byte-level": byte_level_tokenizer,
    "metaspace": metaspace_tokenizer,
}
# Texts, and the entities in them.
CASES: list[tuple[str, list[tuple[str, str]]]] = [
    ("Anna Müller lives in Zürich", [("PER", "Anna Müller"), ("LOC", "Zürich")]),
    ("at the café José", [("LOC", "café"), ("PER", "José")]),
    ("İstanbul and Işık Özgür", [("LOC", "İstanbul"), ("PER", "Işık Özgür")]),
    ("मैं प्रिया शर्मा हूँ", [("PER", "प्रिया शर्मा")]),
    ("ראה את דָּוִד בֶּן־גּוּרִיּוֹן", [("PER", "דָּוִד")]),
    ("قَالَ مُحَمَّدٌ هنا", [("PER", "مُحَمَّدٌ")]),
    ("Nguyễn Thị Hương ở Huế", [("PER", "Nguyễn Thị Hương"), ("LOC", "Huế")]),
    ("안녕 김철수 서울", [("PER", "김철수"), ("LOC", "서울")]),
    ("می‌خواهم علی‌رضا", [("PER", "علی‌رضا")]),
    ("the ﬁrm of ﬁona", [("PER", "ﬁona")]),
    ("in ｢東京｣ Łukasz", [("PER", "Łukasz")]),
    ("by 👩‍👩‍👧‍👦 Ana", [("LOC", "👩‍👩‍👧‍👦"), ("PER", "Ana")]),
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def taggers(request: pytest.FixtureRequest, make_model: MakeModel) -> tuple[str, Predictor]:
    """Return the name of a kind of tokenizer, and a model of entities that has it."""
    folder = make_model(None, LABELS, BertForTokenClassification, whole_vocabulary=True)
    TOKENIZERS[request.param]().save_pretrained(folder)
    return request.param, load_predictor(folder)


def tag(predictor: Predictor, text: str, entities: list[tuple[str, str]], **parameters: Any) -> list[dict[str, Any]]:
    """Decode logits that are right for the first token with a visible character of each word, and O elsewhere."""
    labels: dict[int, str] = {}  # by the first character of a word
    for group, entity in entities:
        start = text.index(entity)
        for index, word in enumerate(entity.split(" ")):
            labels[text.index(word, start)] = f"{'I' if index else 'B'}-{group}"
    task: Any = predictor.task
    query = task.parse(text, parameters)
    encodings: Any = predictor.tokenizer.encode(query.texts, [query.encoding_options])[0]
    (encoding,) = encodings
    logits = np.zeros((len(encoding), len(LABELS)), np.float32)
    logits[:, 0] = 9
    for index, (start, end) in enumerate(encoding.spans.offsets):
        visible = start + len(text[start:end]) - len(text[start:end].lstrip())
        if visible < end and (label := labels.pop(visible, None)):
            logits[index] = 0
            logits[index, LABELS.index(label)] = 20
    assert not labels
    return list(task.decode(query, [SequenceOutput(0, encoding, logits)]))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
@pytest.mark.parametrize("strategy", ["first", "max"])
def test_entities_are_the_same_in_every_form(
    taggers: tuple[str, Predictor], case: tuple[str, list[tuple[str, str]]], form: Any, strategy: str
) -> None:
    """Names as a reader sees them, to the last accent, whatever the tokenizer makes of their characters."""
    text = unicodedata.normalize(form, case[0])
    expected = [(group, unicodedata.normalize(form, entity)) for group, entity in case[1]]
    answer = tag(taggers[1], text, expected, aggregation_strategy=strategy)
    assert [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in answer] == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_answers_are_the_same_in_every_form(name: str, form: Any, case: Any, readers: dict[str, Predictor]) -> None:
    """An answer is extended to the word as a reader sees it, and has its last accent without being extended."""
    predictor, context = readers[name], unicodedata.normalize(form, case[0])
    task: Any = predictor.task
    for _, entity in case[1]:
        word = unicodedata.normalize(form, entity.split(" ")[-1])
        start = context.index(word)
        for align in (True, False):
            query = task.parse({"question": "who?", "context": context}, {"align_to_words": align})
            encodings: Any = predictor.tokenizer.encode(query.texts, [query.encoding_options])[0]
            (encoding,) = encodings
            logits = np.full((len(encoding), 2), -9, np.float32)
            spans = zip(encoding.spans.offsets, encoding.spans.sequence_ids, strict=True)
            first = next(
                index
                for index, ((begin, end), owner) in enumerate(spans)
                if owner == 1 and begin <= start < end and context[begin:end].strip()
            )
            logits[first] = 9
            answer = task.decode(query, [SequenceOutput(0, encoding, logits)])
            assert answer["answer"] == context[answer["start"] : answer["end"]]
            assert answer["answer"] == word if align else word.startswith(answer["answer"])
            assert "".join(GRAPHEMES(word)[: len(GRAPHEMES(answer["answer"]))]) == answer["answer"]


@pytest.fixture(scope="module")
def readers(make_model: MakeModel) -> dict[str, Predictor]:
    """Return a model that answers questions, with each kind of tokenizer."""
    predictors = {}
    for name, make_tokenizer in TOKENIZERS.items():
        folder = make_model(None, ("start", "end"), BertForQuestionAnswering, whole_vocabulary=True)
        make_tokenizer().save_pretrained(folder)
        predictors[name] = load_predictor(folder)
    return predictors


def test_punctuation_is_no_part_of_a_name(make_model: MakeModel) -> None:
    """Where the tokenizer tells words from punctuation marks, as byte-level BPE does; the pipeline splits at blanks."""
    folder = make_model(None, LABELS, BertForTokenClassification)
    byte_level_tokenizer().save_pretrained(folder)
    predictor = load_predictor(folder)
    text = "He said (Anna) met Bob in London.\nThen\u00a0Eve left."
    names = [("PER", "Anna"), ("PER", "Bob"), ("LOC", "London"), ("PER", "Eve")]
    answer = tag(predictor, text, names, aggregation_strategy="first")
    assert [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in answer] == names


def test_words_are_spelled_as_the_text(taggers: tuple[str, Predictor]) -> None:
    """`word` has the blanks between words, and letters beyond ASCII as they are."""
    name, predictor = taggers
    (entity,) = tag(predictor, "by Anna Müller", [("PER", "Anna Müller")], aggregation_strategy="first")
    assert entity["word"].strip() == ("anna muller" if name == "uncased" else "Anna Müller")


@pytest.mark.parametrize("strategy", AGGREGATION_STRATEGIES)
def test_no_span_begins_or_ends_on_a_blank(taggers: tuple[str, Predictor], strategy: str) -> None:
    """Nor on a character without width, and no entity is empty."""
    text = "  by \u3000 Anna\n\nB  in\tRome \u200b \ufeff 東京  "
    parameters = {"aggregation_strategy": strategy, "ignore_labels": []}
    (response,) = ask(taggers[1], {"inputs": text, "parameters": parameters})
    spans = [text[entity["start"] : entity["end"]] for entity in response_json(response)]
    assert all(span == span.strip(" \n\t\u3000\u200b\ufeff") for span in spans)
    assert strategy == "none" or all(spans)


@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_a_marker_that_swallows_a_blank_is_a_word(make_model: MakeModel, strategy: str) -> None:
    """An added token with `lstrip` covers the blank before it, so it is longer in the text than in the vocabulary."""
    folder = make_model(None, LABELS, BertForTokenClassification)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(AddedToken("[unused1]", lstrip=True, rstrip=True))
    tokenizer.save_pretrained(folder)
    predictor = load_predictor(folder)
    names = [("PER", "Anna"), ("LOC", "[unused1]"), ("PER", "Bob")]
    answer = tag(predictor, "Anna [unused1] Bob", names, aggregation_strategy=strategy)
    assert [(entity["entity_group"], entity["start"], entity["end"]) for entity in answer] == [
        ("PER", 0, 4),
        ("LOC", 5, 14),
        ("PER", 15, 18),
    ]


def test_an_unknown_character_does_not_end_a_word(make_model: MakeModel) -> None:
    """A unigram model has one unknown token for a character that it does not know, in the middle of a name."""
    folder = make_model(None, LABELS, BertForTokenClassification)
    metaspace_tokenizer().save_pretrained(folder)
    predictor = load_predictor(folder)
    text = "by Ada\u1e9elan in Rome"
    (encodings,) = predictor.tokenizer.encode([(text, None)], [EncodingOptions()])
    assert isinstance(encodings, list)
    assert predictor.tokenizer.unknown_id in encodings[0].ids
    (entity,) = tag(predictor, text, [("PER", "Ada\u1e9elan")], aggregation_strategy="first")
    assert (entity["start"], entity["end"]) == (3, 10)
