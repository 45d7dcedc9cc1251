"""B1 and B3: bad requests among good ones get their 4xx and harm nobody; a text's answer is the same in any company."""

from __future__ import annotations

import http.client
import random
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scripts.benchmark.service import write_ours
from tests.reliability.accounting import Account
from tests.reliability.client import Answer
from tests.reliability.oracle import Exam
from tests.reliability.result import Verdict
from tests.reliability.stage import Stage, Target
from tests.support.live import Live
from tests.support.malformed import ALL, GOOD, MARK, STRANGE, UNKNOWN_OUTPUT, Sent, only_over_http, over_http

NEIGHBOURS = 7
MOST = 24  # texts of one request
SHAPES = ({"code", "type", "message"}, {"error"})


def mixed(stage: Stage, every: int = 1) -> Verdict:
    """B1: each bad request beside seven good ones: the refusal that is documented, and nobody is harmed.

    Args:
        every: which of the bad bodies are sent: all, every second, ...
    """
    stage.up()
    live, model, pid = stage.live, stage.target.model, stage.worker()
    bad = [sent for case in [*ALL, UNKNOWN_OUTPUT][::every] if (sent := over_http(case, model))]
    bad += only_over_http(model)
    target = Target(live, model, Exam.of([*GOOD, *STRANGE.values()], live.store / f"{model}.mar"))
    account, statuses = Account(target.exam), Counter[int]()
    problems, good, among = [], 0, 0
    with ThreadPoolExecutor(1 + NEIGHBOURS) as pool:
        for sent in [*bad, None]:  # after all of them every text once
            count = NEIGHBOURS if sent else len(target.exam.texts)
            numbers = [good * len(target.exam.texts) + place for place in range(count)]
            refused = (
                pool.submit(_exchange, live, sent.message(live.key), leaves=sent.leaves, method=sent.method)
                if sent
                else None
            )
            answered = pool.map(lambda number: _exchange(live, target.message(number, live.key)), numbers)
            for number, answer in zip(numbers, answered, strict=True):
                account.note(number, answer)
            good += count
            if sent and refused:
                answer = refused.result()
                statuses[answer.status] += 1
                among += int(answer.headers.get("x-batch-texts", "0")) > 0
                problems += [f"{sent.name}: {problem}" for problem in _problems(sent, answer)]
    return Verdict(
        "B1",
        f"{len(bad)} bad requests, each beside {NEIGHBOURS} good ones, and {len(STRANGE)} strange texts: the "
        "documented 4xx, the good ones right, the same worker, nothing of a text in a log",
        {
            "by status": " ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
            "in a batch with good ones": among,
            **{f"good {name}": count for name, count in account.to_json(good).items()},
        },
        {
            **dict.fromkeys(problems, False),
            **account.clean(good),
            "all good ones answered": account.counts["right"] == good,
            "bad ones travelled with good ones": among > len(bad) / 4,
            "the same worker": stage.worker() == pid,
            "no text in a log": MARK not in live.log(),
        },
    )


def company(stage: Stage, rounds: int) -> Verdict:
    """B3: the same texts in requests of all sizes, in other places and batches: the same label and scores."""
    stage.up()
    (known,) = stage.target.exam.versions.values()
    places = list(range(min(300, len(known.expected))))
    chance = random.Random(0)  # noqa: S311 - reproducible
    answers = same_label = same_scores = 0
    for _ in range(rounds):
        chance.shuffle(places)
        groups, start = [], 0
        while start < len(places):
            groups.append(places[start : start + chance.randint(1, MOST)])
            start += len(groups[-1])
        with ThreadPoolExecutor(8) as pool:
            for group, told in zip(groups, pool.map(lambda group: _answers(stage.target, group), groups), strict=True):
                answers += len(group)
                same_label += sum(
                    best(known.expected[place]) == best(scores) for place, scores in zip(group, told, strict=True)
                )
                same_scores += sum(known.agrees(place, scores) for place, scores in zip(group, told, strict=True))
    return Verdict(
        "B3",
        f"{len(places)} texts {rounds} times, in other requests, places and batches: the same label and scores",
        {"answers": answers, "same label": same_label, "same scores": same_scores},
        {"labels": same_label == answers, "scores": same_scores == answers},
    )


def best(scores: Any) -> str:
    """Return the label with the highest score, of an answer or of what is known beforehand.

    >>> best({"yes": 0.1, "no": 0.9}), best([{"label": "yes", "score": 0.9}, {"label": "no", "score": 0.1}])
    ('no', 'yes')
    """
    found = scores if isinstance(scores, dict) else {one["label"]: one["score"] for one in scores}
    return str(max(found, key=found.__getitem__))


def _answers(target: Target, places: Sequence[int]) -> list[Any]:
    reply = target.live.post(f"/predictions/{target.model}", write_ours([target.exam.texts[place] for place in places]))
    answers: list[Any] = reply.json()
    return answers


def _exchange(live: Live, message: bytes, *, leaves: bool = False, method: str = "POST") -> Answer:
    """Send bytes on a connection of their own; return the answer, or that there was none."""
    with socket.create_connection(("127.0.0.1", live.ports["inference_address"]), timeout=60) as connection:
        try:
            connection.sendall(message)
            if leaves:
                return Answer(0)
            reply = http.client.HTTPResponse(connection, method=method)
            reply.begin()
            return Answer(reply.status, reply.read(), {name.lower(): text for name, text in reply.getheaders()})
        except (OSError, http.client.HTTPException):
            return Answer(0)


def _problems(sent: Sent, answer: Answer) -> list[str]:
    """Say in what an answer is not the documented refusal."""
    found = []
    if answer.status not in sent.statuses:
        found.append(f"{answer.status} instead of {' or '.join(map(str, sent.statuses))}")
    if answer.content and not (isinstance(answer.value, dict) and set(answer.value) in SHAPES):
        found.append("an error of another shape")
    ours = "x-error-message" in answer.headers  # TorchServe itself tells a client the name that it asked for
    if ours and any(MARK.lower() in text.lower() for text in (answer.content.decode(), *answer.headers.values())):
        found.append("a text in the answer")
    return found
