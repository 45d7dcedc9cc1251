"""Records of the annotation tools Prodigy and Argilla, as the readers of this package and of scoring yield them.

`db-out` of Prodigy writes JSON lines whose answer may be "reject" or "ignore": such a row has a text, but no label.
`records.to_json` of Argilla 2 writes fields and the responses of every annotator apart. An export of Label Studio is
one value that is read as a whole, by `label_studio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Record: TypeAlias = Mapping[str, object]


class UnreadableAnnotation(ValueError):
    """A record holds annotations of which none can be chosen."""


def plain_record(record: Record) -> Record:
    """Return a record of Prodigy or Argilla with a text and what it is labelled with; others as they are.

    Raises UnreadableAnnotation where annotators of Argilla disagree.

    >>> plain_record({"fields": {"text": "a"}, "responses": {"mood": [{"value": "x", "user_id": "1"}]}})
    {'text': 'a', 'mood': 'x'}
    """
    if is_of_prodigy(record):
        return _of_prodigy(record)
    fields, responses = record.get("fields"), record.get("responses")
    if isinstance(fields, dict) and isinstance(responses, dict):
        return _of_argilla(fields, responses)
    return record


def is_of_prodigy(record: Record) -> bool:
    """Return whether a record is of a task that Prodigy has saved."""
    return "_task_hash" in record and "answer" in record


def why_unlabelled(record: Record) -> str:
    """Return why a record has no label, as an addition to a message; empty where nothing is known."""
    if not is_of_prodigy(record) or record["answer"] == "accept":
        return ""
    return f": the answer in Prodigy is {record['answer']!r}; leave rows out that are not accepted"


def _of_prodigy(record: Record) -> Record:
    """Return spans as `entities` and choices as `label`: one name, or a list where several may be chosen."""
    tools = ("spans", "tokens", "accept", "options")
    plain: dict[str, Any] = {name: value for name, value in record.items() if name not in tools}
    is_accepted = record["answer"] == "accept"
    if isinstance(spans := record.get("spans"), list):
        plain["entities"] = spans if is_accepted else None
    if isinstance(chosen := record.get("accept"), list):
        settings = record.get("config")
        is_several = isinstance(settings, dict) and settings.get("choice_style") == "multiple"
        plain["label"] = chosen[0] if len(chosen) == 1 and not is_several else chosen
    if "label" in plain and not is_accepted:
        plain["label"] = None
    return plain


def _of_argilla(fields: Mapping[str, Any], responses: Mapping[str, Any]) -> Record:
    """Return the fields, and for each question the value that its annotators agree on."""
    plain = dict(fields)
    for question, answers in responses.items():
        values = [answer.get("value") for answer in answers or [] if isinstance(answer, dict)]
        if any(value != values[0] for value in values):
            raise UnreadableAnnotation(f"{len(values)} responses to {question} that differ: export one for each record")
        if question in fields:
            raise UnreadableAnnotation(f"{question} is the name of a field and of a question: rename one of them")
        plain[question] = values[0] if values else None
    return plain
