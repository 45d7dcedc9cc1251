"""Answers as HTML, by task: bars, highlighted spans, answers in their context, filled masks, matrices, lists.

Everything that a model or a person wrote is escaped. An answer of a shape that is not known is shown as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from handler.protocol import JSON
from scripts.client.answers import is_error
from scripts.client.explanation_page import article
from scripts.client.explanations import explained_scores
from scripts.client.predictions import predicted_label, scores
from scripts.explorer.asking import Answered
from scripts.explorer.spans import Span, highlighted

ANSWERS = "answers"  # the class of everything here, for answers.css
VALUES_SHOWN = 96  # of a vector
WEIGHTS_SHOWN = 30  # of a sparse embedding
TOKENS_SHOWN = 32  # of the vectors of tokens


def html_of(answered: Answered, title: str = "", other: Answered | None = None) -> str:
    """Return the answers to one request under a title; those that differ from `other`'s are marked.

    Answers with a title stand beside others: each has a line for the mark, so that equal questions are side by side.
    """
    task = answered.ask.operation.form.task
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    if answered.ask.explain:
        return _page(heading + "".join(map(_explanation, answered.ask.questions, answered.answers)))
    if task == "sentence-similarity" and not any(map(is_error, answered.answers)):
        return _page(heading + matrix(answered.ask.questions[0]["sentences"], answered.answers))
    cards = []
    for index, (question, answer) in enumerate(zip(answered.ask.questions, answered.answers, strict=True)):
        differs = _difference(answer, other.answers[index]) if other else ""
        mark = f'<p class="mark">{differs or "&nbsp;"}</p>' if title else ""
        cards.append(f"<section>{mark}{_card(task, question, answer)}</section>")
    return _page(heading + "".join(cards))


def message_html(message: str, kind: str = "bad") -> str:
    """Return a message in a box: `good`, `bad` or `note`."""
    return _page(f'<p class="box {kind}" role="status">{escape(message)}</p>')


def matrix(names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Return numbers between every two texts as a table, coloured by their size."""
    values = [value for row in rows for value in row]
    least, most = min(values), max(values)
    width = (most - least) or 1.0
    head = "".join(f'<th title="{escape(name)}">{number}</th>' for number, name in enumerate(names, 1))
    body = "".join(
        f"<tr><th>{number}</th>"
        + "".join(f'<td style="--share: {(value - least) / width:.3f}">{value:.2f}</td>' for value in row)
        + f'<td class="name">{escape(name)}</td></tr>'
        for number, (name, row) in enumerate(zip(names, rows, strict=True), 1)
    )
    return f'<div class="wide"><table class="matrix"><tr><th></th>{head}<th></th></tr>{body}</table></div>'


def bars(items: Sequence[tuple[str, float]]) -> str:
    """Return names with scores as bars; a score beyond 0 to 1 has a bar relative to the largest one."""
    scale = max([1.0, *(abs(score) for _, score in items)])
    rows = "".join(
        f'<tr><td class="name">{escape(name)}</td>'
        f'<td class="track"><i style="width: {abs(score) / scale:.1%}"></i></td>'
        f'<td class="number">{score:.3f}</td></tr>'
        for name, score in items
    )
    return f'<table class="bars">{rows}</table>'


def _card(task: str, question: JSON, answer: JSON) -> str:
    if is_error(answer):
        error = answer["error"]
        message = f"{error.get('code')} {error.get('type')}: {error.get('message')}"
        return _asked(question) + f'<p class="box bad">{escape(message)}</p>'
    try:
        return VIEWS.get(task, _as_json)(question, answer)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # a parameter changed the shape
        return _as_json(question, answer)


def _ranking(question: JSON, answer: JSON) -> str:
    judged = answer if isinstance(answer, Mapping) else {}
    ranking = judged["ranking"] if judged else answer
    notes = []
    if judged.get("abstained"):
        notes.append('<p class="box note">abstained: less certain than min_confidence</p>')
    if "confidence" in judged:
        notes.append(f"<p>Confidence: {judged['confidence']:.3f}</p>")
    if "set" in judged:
        labels = ", ".join(map(str, judged["set"])) or "none"
        notes.append(f"<p>Holds the right label in {judged['coverage']:.0%}: <b>{escape(labels)}</b></p>")
    return _asked(question) + bars([(str(item["label"]), item["score"]) for item in ranking]) + "".join(notes)


def _entities(question: JSON, answer: JSON) -> str:
    spans = [
        Span(item["start"], item["end"], str(item.get("entity_group", item.get("entity"))), item["score"])
        for item in answer
    ]
    text = _text(question)
    marked = highlighted(text, spans)
    items = [(f"{span.label}: {text[span.start : span.end]}", span.score or 0.0) for span in spans]
    return f'<p class="text">{marked}</p>' + (bars(items) if items else "<p>no entities</p>")


def _answer(question: JSON, answer: JSON) -> str:
    answers = answer if isinstance(answer, list) else [answer]
    spans = [
        Span(item["start"], item["end"], "" if len(answers) == 1 else str(rank), item["score"])
        for rank, item in enumerate(answers, 1)
    ]
    return (
        f'<p class="asked">{escape(question["question"])}</p>'
        + bars([(item["answer"] or "no answer in this context", item["score"]) for item in answers])
        + f'<p class="text">{highlighted(question["context"], spans)}</p>'
    )


def _filled(question: JSON, answer: JSON) -> str:
    masks = answer if answer and isinstance(answer[0], list) else [answer]
    parts = [_asked(question)]
    for number, words in enumerate(masks, 1):
        if len(masks) > 1:
            parts.append(f"<h4>Mask {number}</h4>")
        parts.append(bars([(item["token_str"].strip(), item["score"]) for item in words]))
        if len(masks) == 1 and words:
            parts.append(f'<p class="text">{escape(words[0]["sequence"])}</p>')
    return "".join(parts)


def _vector(question: JSON, answer: JSON) -> str:
    length = sum(value * value for value in answer) ** 0.5
    shown = "" if len(answer) <= VALUES_SHOWN else f", the first {VALUES_SHOWN} drawn"
    first = ", ".join(f"{value:.4f}" for value in answer[:6])
    about = f"{len(answer)} numbers, length {length:.3f}{shown}: [{first}, …]"
    return _asked(question) + _strip(answer) + f'<p class="quiet">{about}</p>'


def _strip(vector: Sequence[float]) -> str:
    """Draw the first numbers of a vector."""
    largest = max(map(abs, vector)) or 1.0
    drawn = "".join(
        f'<i class="{"for" if value >= 0 else "against"}" style="--share: {abs(value) / largest:.2f}" '
        f'title="{value:.4f}"></i>'
        for value in vector[:VALUES_SHOWN]
    )
    return f'<div class="strip">{drawn}</div>'


def _vectors(question: JSON, answer: JSON) -> str:
    rows = [
        entry if isinstance(entry, dict) else {"token": number, "embedding": entry}
        for number, entry in enumerate(answer, 1)
    ]
    drawn = "".join(f"{escape(str(row['token']))}{_strip(row['embedding'])}" for row in rows[:TOKENS_SHOWN])
    shown = "" if len(rows) <= TOKENS_SHOWN else f", the first {TOKENS_SHOWN} drawn"
    about = f"{len(rows)} vectors of {len(rows[0]['embedding'])} numbers{shown}"
    return _asked(question) + drawn + f'<p class="quiet">{about}</p>'


def _weighted(question: JSON, answer: JSON) -> str:
    heaviest = sorted(answer, key=lambda entry: -entry["value"])[:WEIGHTS_SHOWN]
    shown = "" if len(answer) <= WEIGHTS_SHOWN else f", the heaviest {WEIGHTS_SHOWN} shown"
    rows = [(str(entry.get("token", entry["index"])), entry["value"]) for entry in heaviest]
    return _asked(question) + bars(rows) + f'<p class="quiet">{len(answer)} word pieces{shown}</p>'


def _reranked(question: JSON, answer: JSON) -> str:
    texts = question["texts"]
    rows = [(f"{rank}. {texts[item['index']]}", item["score"]) for rank, item in enumerate(answer, 1)]
    return f'<p class="asked">{escape(question["query"])}</p>' + bars(rows)


def _tokens(question: JSON, answer: JSON) -> str:
    chips = "".join(
        f'<span class="token{"" if offset else " special"}" title="id {number}, characters {_characters(offset)}">'
        f"{escape(token)}</span>"
        for token, number, offset in zip(answer["tokens"], answer["ids"], answer["offsets"], strict=True)
    )
    cut = f", {answer['n_truncated']} cut off" if answer.get("n_truncated") else ""
    return _asked(question) + f'<p class="tokens">{chips}</p><p class="quiet">{answer["n_tokens"]} tokens{cut}</p>'


def _characters(offset: JSON) -> str:
    return f"{offset[0]} to {offset[1]}" if offset else "none"


def _as_json(question: JSON, answer: JSON) -> str:
    shown = json.dumps(answer, ensure_ascii=False, indent=1)
    return _asked(question) + f"<pre>{escape(shown)}</pre>"


def _explanation(question: JSON, answer: JSON) -> str:
    if is_error(answer):
        return f"<section>{_card('', question, answer)}</section>"
    return "".join(map(article, explained_scores(question, answer)))


def _difference(answer: JSON, other: JSON) -> str:
    """Say whether another version says something else, and how far its scores are."""
    if predicted_label(answer) != predicted_label(other):
        return '<b class="differs">says something else</b>'
    here, there = dict(scores(answer)), dict(scores(other))
    most = max((abs(here[key] - there[key]) for key in here.keys() & there.keys()), default=0.0)
    return f"scores differ by {most:.3f} at most" if most >= 0.0005 else ""


def _asked(question: JSON) -> str:
    return f'<p class="asked">{escape(_text(question))}</p>'


def _text(question: JSON) -> str:
    return question if isinstance(question, str) else "  |  ".join(map(str, question.values()))


def _page(html: str) -> str:
    return f'<div class="{ANSWERS}">{html}</div>'


VIEWS: Mapping[str, Callable[[Any, Any], str]] = {
    "text-classification": _ranking,
    "zero-shot-classification": _ranking,
    "next-sentence-prediction": _ranking,
    "token-classification": _entities,
    "question-answering": _answer,
    "fill-mask": _filled,
    "feature-extraction": _vector,
    "sparse-embedding": _weighted,
    "late-interaction": _vectors,
    "rerank": _reranked,
    "tokenize": _tokens,
}
