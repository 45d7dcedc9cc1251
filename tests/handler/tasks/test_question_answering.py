"""Answers: equal to the published decoder on one window; over several, equal to those of the whole text."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON
from handler.sequences import Tokens
from handler.spans import best_spans
from handler.tasks import SequenceOutput
from handler.tasks.items import VISIBLE
from handler.tasks.question_answering import QuestionAnswering
from tests.support.samples import TEXTS, MakeModel, ask, check_codecs, response_json
from tests.support.tokenizers import DIFFICULT_TEXTS, byte_level_tokenizer

torch.set_num_threads(1)

QUESTION = "Who lives where?"
ANSWER = "zebra lives near the river"
FILLER = "The old man from Berlin took his two dogs to Paris, where Maria has a house in the woods. "
CONTEXTS = [text for text in [*TEXTS, *DIFFICULT_TEXTS] if len(text) < 1000]
BLANKS = " \t\r\n\u200b\ufeff\u3000"
MARKS = ("Mn", "Mc", "Me", "Cf")


@pytest.fixture(scope="module")
def folder(make_model: MakeModel) -> Path:
    """Return a random model."""
    return make_model(None, ("start", "end"), architecture=BertForQuestionAnswering, whole_vocabulary=True)


@pytest.fixture(scope="module")
def knowing(make_model: MakeModel) -> Path:
    """Return a model that sees every token alone: each answer begins with a zebra and ends with a river."""
    folder = make_model(None, ("start", "end"), architecture=BertForQuestionAnswering, whole_vocabulary=True)
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight *= 0
        model.bert.embeddings.token_type_embeddings.weight *= 0
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight *= 0
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(["zebra", "river"])])
        model.qa_outputs.weight.copy_(0.4 * model.bert(ids).last_hidden_state[0])
    model.save_pretrained(folder)
    return folder


def serve(folder: Path, **options: Any) -> Predictor:
    """Load a predictor with some settings."""
    return load_predictor(folder, ServingConfig(**options))


def answer_of(predictor: Predictor, context: str, **parameters: Any) -> Any:
    """Answer the question on a context."""
    (reply,) = ask(predictor, {"inputs": {"question": QUESTION, "context": context}, "parameters": parameters})
    return response_json(reply)


def published(
    model: Any,
    tokenizer: Any,
    context: str,
    *,
    top_k: int = 1,
    max_seq_len: int = 512,
    doc_stride: int = 128,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
    align_to_words: bool = True,
    question: str = QUESTION,
) -> list[dict[str, Any]]:
    """Answer as the pipeline of transformers 4 is published to, but list every span: overlaps are dropped at the end.

    Spans are extended to grapheme clusters. Each window by itself: tokens that are neither of the context nor the
    first are put at -10000, softmax, and the product of start and end within `max_answer_len` tokens. Blank tokens
    neither begin nor end an answer.
    """
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
    if "token_type_ids" not in tokenizer.model_input_names and "token_type_ids" in names:
        names.remove("token_type_ids")
    edges = [*(match.start() for match in regex.finditer(r"\X", context)), len(context)]
    answers: list[dict[str, Any]] = []
    least_null = 1e6
    for index in range(len(encoded["input_ids"])):
        with torch.no_grad():
            output = model(**{name: torch.tensor([encoded[name][index]]) for name in names})
        masked = np.array([owner != 1 for owner in encoded.sequence_ids(index)])
        masked[0] = False
        shares = []
        for logits in (output.start_logits[0].numpy(), output.end_logits[0].numpy()):
            exponentials = np.exp(np.where(masked, -10000, logits) - np.where(masked, -10000, logits).max())
            shares.append(exponentials / exponentials.sum())
        least_null = min(least_null, shares[0][0] * shares[1][0])
        offsets, words = encoded["offset_mapping"][index], encoded.word_ids(index)
        allowed = [
            place for place in np.flatnonzero(~masked) if place and context[slice(*offsets[place])].strip(BLANKS)
        ]
        for first, last in itertools.product(allowed, allowed):
            if not first <= last < first + max_answer_len:
                continue
            start, end = offsets[first][0], offsets[last][1]
            if align_to_words and words[first] is not None and words[last] is not None:
                start = encoded.word_to_chars(index, words[first], sequence_index=1)[0]
                end = encoded.word_to_chars(index, words[last], sequence_index=1)[1]
            start = max(edge for edge in edges if edge <= start)
            end = min(edge for edge in edges if edge >= end)
            score = shares[0][first] * shares[1][last]
            answers.append({"answer": context[start:end], "score": score, "start": start, "end": end})
    answers.sort(key=lambda one: -one["score"])
    kept: list[dict[str, Any]] = []
    for one in answers:
        if all(one["end"] <= other["start"] or other["end"] <= one["start"] for other in kept):
            kept.append(one)
        if len(kept) == top_k:
            break
    if handle_impossible_answer:
        kept.append({"answer": "", "score": least_null, "start": 0, "end": 0})
    return sorted(kept, key=lambda one: -one["score"])[:top_k]


def assert_equal(got: Any, expected: list[dict[str, Any]], tolerance: float = 1e-3) -> None:
    """Compare answers in order; scores by their own size, for those of random models are small."""
    got = got if isinstance(got, list) else [got]
    bare = [[(one["start"], one["end"], one["answer"]) for one in response_json] for response_json in (got, expected)]
    assert bare[0] == bare[1]
    assert [one["score"] for one in got] == pytest.approx([one["score"] for one in expected], rel=tolerance)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 5},
        {"top_k": 3, "handle_impossible_answer": True},
        {"handle_impossible_answer": True, "max_answer_len": 1},
        {"top_k": 4, "align_to_words": False, "max_answer_len": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["BERT", "RoBERTa"])
def test_answers_equal_the_published_decoder(
    make_model: MakeModel, folder: Path, family: str, parameters: dict[str, Any]
) -> None:
    """Spans, scores and order on one window, for every script, many questions in one request."""
    if family == "RoBERTa":
        settings = {"config_class": RobertaConfig, "pad_token_id": 1, "type_vocab_size": 1}
        folder = make_model(None, ("start", "end"), architecture=RobertaForQuestionAnswering, **settings)
        byte_level_tokenizer().save_pretrained(folder)
    predictor = serve(folder)
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    contexts = CONTEXTS
    if family == "RoBERTa":  # whose tokenizer splits words at combining marks and joiners, which answers do not
        contexts = [text for text in CONTEXTS if not any(unicodedata.category(char) in MARKS for char in text)]
    items = [{"question": QUESTION, "context": context} for context in contexts]
    answers = response_json(ask(predictor, {"inputs": items, "parameters": parameters})[0])
    for context, answer in zip(contexts, answers, strict=True):
        assert isinstance(answer, list) is (parameters.get("top_k", 1) > 1)
        assert_equal(answer, published(model, tokenizer, context, **parameters))


@pytest.mark.parametrize("max_seq_len", [40, 64])
@pytest.mark.parametrize("doc_stride", [0, 12, 10_000])
@pytest.mark.parametrize("top_k", [1, 4])
def test_windows_equal_the_whole_text(knowing: Path, max_seq_len: int, doc_stride: int, top_k: int) -> None:
    """Spans and scores are those of one window over all, also for an answer across an edge; nothing is told twice."""
    predictor = serve(knowing)
    for before in range(0, 9, 2):
        context = (
            FILLER * before + ANSWER + ". " + FILLER * 3 + ("A zebra drinks from the river. " if top_k > 1 else "")
        )
        expected = answer_of(predictor, context, top_k=top_k, handle_impossible_answer=True)
        parameters = {"top_k": top_k, "max_seq_len": max_seq_len, "doc_stride": doc_stride}
        parameters["handle_impossible_answer"] = True
        item = {"question": QUESTION, "context": context}
        (reply,) = ask(predictor, {"inputs": item, "parameters": parameters})
        assert int(reply.headers["x-batch-texts"]) > 1
        assert "x-truncated-tokens" not in reply.headers
        answers = response_json(reply)
        assert_equal(answers, expected if top_k > 1 else [expected])
        best = answers[0] if top_k > 1 else answers
        assert best["answer"] in (ANSWER, "zebra drinks from the river")
        assert context[best["start"] : best["end"]] == best["answer"]


@pytest.mark.parametrize("words", [True, False])
def test_the_best_spans_are_those_of_trying_all(words: bool) -> None:
    """Best first, each apart from those before it, to the last one."""
    random = np.random.default_rng(1)
    for n in range(1, 25):
        places, longest = np.arange(n), int(random.integers(1, 8))
        word_of = np.cumsum((random.random(n) < 0.6).astype(int))
        tokens = Tokens(places, places, places, 2 * places, 2 * places + 1, word_of)
        starts, ends = random.random(n), random.random(n)
        every = []
        for first, last in itertools.combinations_with_replacement(range(n), 2):
            if last < first + longest:
                one = places[word_of == word_of[first]][0] if words else first
                other = places[word_of == word_of[last]][-1] if words else last
                every.append((2 * one, 2 * other + 1, starts[first] * ends[last]))
        kept: list[tuple[int, int, float]] = []
        for span in sorted(every, key=lambda span: -span[2]):
            if all(span[1] <= start or end <= span[0] for start, end, _ in kept):
                kept.append(span)
        assert list(best_spans(starts, ends, tokens, longest, align_to_words=words)) == kept


def decide(predictor: Predictor, context: str, logits: dict[str, tuple[float, float]], **options: Any) -> Any:
    """Decode hand-made logits (start, end) of words, -5 for all others; `[none]` is the first token."""
    task = predictor.task
    query = task.parse({"question": QUESTION, "context": context}, options)
    (encodings,) = predictor.tokenizer.encode(query.texts, [query.encoding_options])
    assert isinstance(encodings, list)
    windows = []
    for encoding in encodings:
        spans = encoding.spans
        assert spans is not None
        values = np.full((len(encoding), 2), -5, np.float32)
        values[0] = logits.get("[none]", (-5, -5))
        for at, (start, end) in enumerate(spans.offsets):
            if spans.sequence_ids[at] == 1:
                values[at] = logits.get(context[start:end], (-5, -5))
            elif at:
                values[at] = 50  # neither question nor special tokens may count
        windows.append(SequenceOutput(0, encoding, values))
    return task.decode(query, windows)


def test_a_window_without_the_answer_does_not_win(folder: Path) -> None:
    """Within its own window the nonsense is alone and would have 0.99; the answer has a rival and would have half."""
    predictor = serve(folder)
    logits = {"right": (6.0, 6.0), "also": (5.9, 5.9), "nonsense": (3.0, 3.0)}
    context = "right or also " + "x " * 100 + "nonsense"
    best, second, third = decide(predictor, context, logits, top_k=3, max_seq_len=32, doc_stride=4)
    assert [one["answer"] for one in (best, second, third)] == ["right", "also", "nonsense"]
    assert third["score"] < 0.01


def test_no_answer_is_told_where_windows_believe_in_none(folder: Path) -> None:
    """The empty answer competes only if it may, and by the window that believes in it least."""
    predictor = serve(folder)
    context = "one two right " + "x " * 60
    sure, unsure = {"[none]": (9.0, 9.0), "right": (1.0, 1.0)}, {"[none]": (0.0, 0.0), "right": (6.0, 6.0)}
    for max_seq_len in (32, 512):
        options = {"max_seq_len": max_seq_len, "handle_impossible_answer": True}
        none = decide(predictor, context, sure, **options)
        assert none == {"answer": "", "score": pytest.approx(1, abs=0.01), "start": 0, "end": 0}
        assert decide(predictor, context, unsure, **options)["answer"] == "right"
        assert decide(predictor, context, sure, max_seq_len=max_seq_len)["answer"] == "right"


def test_answers_are_aligned_to_words(folder: Path) -> None:
    """A span that begins or ends within a word takes all of it in, also where a window cuts the word."""
    context = "it is pneumonoultramicroscopic here " + "x " * 30
    predictor = serve(folder)
    logits = {"ram": (5.0, 5.0)}
    for max_seq_len in (16, 18, 20, 512):
        options = {"max_seq_len": max_seq_len, "doc_stride": 2}
        aligned = decide(predictor, context, logits, **options)
        raw = decide(predictor, context, logits, align_to_words=False, **options)
        assert aligned["answer"] == "pneumonoultramicroscopic"
        assert raw["answer"] == "ram"
        assert context[raw["start"] : raw["end"]] == raw["answer"]


@pytest.fixture(scope="module")
def windowed(folder: Path) -> Predictor:
    """Return a predictor that reads nearly everything through windows."""
    return serve(folder, max_length=16)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4), st.booleans(), st.integers(1, 6), st.integers(1, 8))
def test_answers_lie_in_the_context_and_apart(
    windowed: Predictor, contexts: list[str], words: bool, top_k: int, longest: int
) -> None:
    """Whatever the characters: each answer is its span, the best comes first, none overlaps another."""
    for context in contexts:
        item = {"question": "a b c?", "context": context}
        parameters = {"top_k": top_k, "align_to_words": words, "max_answer_len": longest, "doc_stride": 3}
        (reply,) = ask(windowed, {"inputs": item, "parameters": parameters})
        if reply.status == 422:
            message = response_json(reply)["message"]
            assert not VISIBLE.search(context) or message == "context holds nothing that this model reads"
            continue
        answers = response_json(reply) if top_k > 1 else [response_json(reply)]
        assert 1 <= len(answers) <= top_k
        assert all(context[one["start"] : one["end"]] == one["answer"] != "" for one in answers)
        assert all(one["score"] >= other["score"] for one, other in itertools.pairwise(answers))
        for one, other in itertools.combinations(answers, 2):
            assert one["end"] <= other["start"] or other["end"] <= one["start"]


def test_every_dialect_answers(folder: Path) -> None:
    """An object for one question, as Hugging Face's client reads it; two tensors over Open Inference v2."""
    predictor = serve(folder)
    items = [{"question": QUESTION, "context": context} for context in TEXTS[:3]]
    assert response_json(ask(predictor, items[0])[0]).keys() == {"answer", "score", "start", "end"}
    tensors = [
        {"name": name, "shape": [3], "datatype": "BYTES", "data": [item[name] for item in items]}
        for name in ("question", "context")
    ]
    replies = ask(
        predictor,
        items,
        {"inputs": items[0], "parameters": {"top_k": 1, "doc_stride": 64, "max_seq_len": None}},
        {"inputs": items},
        {"instances": items},
        {"inputs": tensors},
    )
    check_codecs(predictor, items, replies)
    assert predictor.operations["predict"] is predictor.operations["answer"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("a", "a question must be an object with question and context, got a string"),
        ({"question": "a"}, "context must be a string, got null"),
        ({"context": "a"}, "question must be a string, got null"),
        ({"question": "a", "context": 1}, "context must be a string, got a number"),
        ({"question": " ", "context": "a"}, "question is empty"),
        ({"question": "a", "context": "\n"}, "context is empty"),
        ({"question": "a", "context": "b", "text": "c"}, "unknown field, accepted: question, context"),
        ({"question": "a", "context": "\u0301"}, "context holds nothing that this model reads"),
        ({"question": "a", "context": "\u200b"}, "context holds no visible character"),
    ],
    ids=str,
)
def test_bad_questions_are_422(folder: Path, item: JSON, message: str) -> None:
    """The message names the field and what is accepted."""
    (reply,) = ask(serve(folder), {"inputs": item})
    assert (reply.status, response_json(reply)["message"]) == (422, message)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "top_k must be a whole number from 1 to 1000, got 0"),
        ({"max_answer_len": 513}, "max_answer_len must be a whole number from 1 to 512, got 513"),
        ({"max_seq_len": 5}, "max_seq_len must be a whole number from 16 to 512, got 5"),
        ({"max_question_len": "x"}, "max_question_len must be a whole number of 1 or more, got a string"),
        ({"doc_stride": -1}, "doc_stride must be a whole number of 0 or more, got -1"),
        ({"align_to_words": 1}, "align_to_words must be true or false, got a number"),
        ({"handle_impossible_answer": "no"}, "handle_impossible_answer must be true or false, got a string"),
    ],
    ids=str,
)
def test_bad_parameters_are_422(folder: Path, parameters: JSON, message: str) -> None:
    """The message names the parameter and what is accepted."""
    (reply,) = ask(serve(folder), {"inputs": {"question": "a", "context": "b"}, "parameters": parameters})
    assert (reply.status, response_json(reply)["message"]) == (422, message)


def test_other_overflows(folder: Path) -> None:
    """A long context is refused or cut where the operator says so."""
    item = {"question": QUESTION, "context": FILLER * 40}
    assert ask(serve(folder, overflow="refuse"), item)[0].status == 413
    (cut,) = ask(serve(folder, overflow="truncate"), item)
    assert (cut.status, cut.headers["x-request-tokens"]) == (200, "512")
    assert "x-truncated-tokens" in cut.headers


def test_golden_answers_bear_what_precision_changes_and_no_more(folder: Path, knowing: Path) -> None:
    """The other layout agrees with fp32, packed; another model does not, nor another span."""
    items, parameters = list(QuestionAnswering.self_test_items), QuestionAnswering.self_test_parameters
    predictor = serve(folder)
    task = predictor.task
    golden = predictor.answer_items(items, parameters)
    padded = load_predictor(folder, packed=False).answer_items(items, parameters)
    assert all(task.answers_match(*pair, 1e-4) for pair in zip(golden, padded, strict=True))
    others = serve(knowing).answer_items(items, parameters)
    assert not any(task.answers_match(*pair, 1e-4) for pair in zip(golden, others, strict=True))
    one = {"answer": "a", "score": 0.4, "start": 0, "end": 1}
    two = {"answer": "b", "score": 0.38, "start": 2, "end": 3}
    assert task.answers_match([one, two], [{**two, "score": 0.39}, one], 0.05)
    assert task.answers_match(one, two, 0.05)
    assert not task.answers_match(one, two, 1e-3)
    assert not task.answers_match(one, {**two, "score": 0.9}, 0.05)
    assert not task.answers_match(one, {**one, "answer": "b"}, 0.05)
    assert not task.answers_match([one, two], [one, {**two, "score": 0.2}], 0.05)
