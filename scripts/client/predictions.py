"""What a prediction says, and the numbers in it: answers of two versions, or two precisions, are compared by both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from handler.protocol import JSON

ScoreKey = tuple[JSON, ...]  # what a number is the score of: indexes, labels, fields


def predicted_label(answer: JSON) -> JSON:
    """Return what an answer says, without its numbers: the best label of a ranking, every entity of a list.

    >>> predicted_label([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.1}])
    'a'
    >>> predicted_label([{"entity_group": "X", "score": 0.9, "start": 0, "end": 2}])
    ((('entity_group', 'X'), ('start', 0), ('end', 2)),)
    """
    if isinstance(answer, list):
        return predicted_label(answer[0]) if _is_ranking(answer) else tuple(map(predicted_label, answer))
    if isinstance(answer, dict):
        fields = tuple((key, predicted_label(value)) for key, value in answer.items() if not isinstance(value, float))
        return fields[0][1] if [key for key, _ in fields] == ["label"] else fields
    return None if isinstance(answer, float) else answer


def scores(answer: JSON, key: ScoreKey = ()) -> Iterator[tuple[ScoreKey, float]]:
    """Yield every number of an answer, with what it is the score of; the order of labels does not matter."""
    if isinstance(answer, float):
        yield key, answer
    elif isinstance(answer, list):
        for index, item in enumerate(answer):
            yield from scores(item, key if isinstance(item, Mapping) else (*key, index))
    elif isinstance(answer, dict):
        for name, value in answer.items():
            yield from scores(value, (*key, predicted_label(answer), name))


def _is_ranking(answer: list[JSON]) -> bool:
    # Items with a position in the text are no candidates for one answer.
    positional = {"start", "entity_group"}
    return bool(answer) and all(
        isinstance(item, dict) and "score" in item and not positional & item.keys() for item in answer
    )
