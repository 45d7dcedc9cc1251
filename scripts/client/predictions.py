"""What answers say, of any task, and the numbers in them: how two versions, or two precisions, are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from handler.protocol import JSON

Place = tuple[JSON, ...]


def verdict(answer: JSON) -> JSON:
    """Return what an answer says, without its numbers: of labels the best, of entities all.

    >>> verdict([{"label": "a", "score": 0.9}, {"label": "b", "score": 0.1}])
    'a'
    >>> verdict([{"entity_group": "X", "score": 0.9, "start": 0, "end": 2}])
    ((('entity_group', 'X'), ('start', 0), ('end', 2)),)
    """
    if isinstance(answer, list):
        return verdict(answer[0]) if _is_ranking(answer) else tuple(map(verdict, answer))
    if isinstance(answer, dict):
        said = tuple((key, verdict(value)) for key, value in answer.items() if not isinstance(value, float))
        return said[0][1] if [key for key, _ in said] == ["label"] else said
    return None if isinstance(answer, float) else answer


def scores(answer: JSON, at: Place = ()) -> Iterator[tuple[Place, float]]:
    """Yield every number of an answer, with what it is the score of; the order of labels does not matter."""
    if isinstance(answer, float):
        yield at, answer
    elif isinstance(answer, list):
        for index, item in enumerate(answer):
            yield from scores(item, at if isinstance(item, Mapping) else (*at, index))
    elif isinstance(answer, dict):
        for key, value in answer.items():
            yield from scores(value, (*at, verdict(answer), key))


def _is_ranking(answer: list[JSON]) -> bool:
    # What has a place in the text is not ranked against what has another.
    places = {"start", "entity_group"}
    return bool(answer) and all(isinstance(one, dict) and "score" in one and not places & one.keys() for one in answer)
