"""B1 and B3: bad requests get their 4xx and leave their neighbours alone; answers do not depend on the batch."""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from scripts.benchmark.accounting import scores_of
from scripts.benchmark.http import LoadResponse
from scripts.benchmark.servers import all_labels_body
from tests.reliability.accounting import RequestLedger
from tests.reliability.oracle import Oracle
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target
from tests.support.live import Live
from tests.support.malformed import ALL, GOOD, MARK, STRANGE, UNKNOWN_OUTPUT, Sent, only_over_http, over_http

NEIGHBOURS = 7
MAX_TEXTS = 24  # of one request
SHAPES = ({"code", "type", "message"}, {"error"})


def mixed(server: ScenarioServer, every: int = 1) -> ScenarioResult:
    """B1: each bad request beside seven good ones: it gets the documented refusal, the others their answers.

    Args:
        every: step through the bad bodies: 1 sends all, 2 every second, ...
    """
    server.up()
    live, model, pid = server.live, server.target.model, server.worker()
    bad = [sent for case in [*ALL, UNKNOWN_OUTPUT][::every] if (sent := over_http(case, model))]
    bad += only_over_http(model)
    target = Target(live, model, Oracle.of([*GOOD, *STRANGE.values()], live.store / f"{model}.mar"))
    ledger, statuses = RequestLedger(target.oracle), Counter[int]()
    problems, good, batched = [], 0, 0
    with ThreadPoolExecutor(1 + NEIGHBOURS) as pool:
        for sent in [*bad, None]:  # at the end every text once
            count = NEIGHBOURS if sent else len(target.oracle.texts)
            numbers = [good * len(target.oracle.texts) + index for index in range(count)]
            bad_request = (
                pool.submit(_exchange, live, sent.message(live.key), leaves=sent.leaves, method=sent.method)
                if sent
                else None
            )
            good_requests = pool.map(lambda number: _exchange(live, target.message(number, live.key)), numbers)
            for number, answer in zip(numbers, good_requests, strict=True):
                ledger.record(number, answer)
            good += count
            if sent and bad_request:
                answer = bad_request.result()
                statuses[answer.status] += 1
                batched += int(answer.headers.get("x-batch-texts", "0")) > 0
                problems += [f"{sent.name}: {problem}" for problem in _problems(sent, answer)]
    return ScenarioResult(
        "B1",
        f"{len(bad)} bad requests, each beside {NEIGHBOURS} good ones, and {len(STRANGE)} strange texts: the "
        "documented 4xx, the good ones right, the same worker, nothing of a text in a log",
        {
            "by status": " ".join(f"{status}: {count}" for status, count in sorted(statuses.items())),
            "in a batch with good ones": batched,
            **{f"good {name}": count for name, count in ledger.figures(good).items()},
        },
        {
            **dict.fromkeys(problems, False),
            **ledger.invariants(good),
            "all good ones answered": ledger.counts["right"] == good,
            # The standalone server reads each request before it batches them.
            "bad ones shared batches with good ones": server.is_standalone or batched > len(bad) / 4,
            "the same worker": server.worker() == pid,
            "no text in a log": MARK not in live.log(),
        },
    )


def batch_invariance(server: ScenarioServer, rounds: int) -> ScenarioResult:
    """B3: the same texts in requests of all sizes, other positions and batches: the same label and scores."""
    server.up()
    (expected,) = server.target.oracle.versions.values()
    indices = list(range(min(300, len(expected.scores))))
    generator = random.Random(0)  # noqa: S311 - reproducible
    answers = same_label = same_scores = 0
    for _ in range(rounds):
        generator.shuffle(indices)
        groups, start = [], 0
        while start < len(indices):
            groups.append(indices[start : start + generator.randint(1, MAX_TEXTS)])
            start += len(groups[-1])
        with ThreadPoolExecutor(8) as pool:
            for group, scores_of_group in zip(
                groups, pool.map(lambda group: _answers(server.target, group), groups), strict=True
            ):
                answers += len(group)
                same_label += sum(
                    best(expected.scores[index]) == best(scores)
                    for index, scores in zip(group, scores_of_group, strict=True)
                )
                same_scores += sum(
                    expected.matches(index, scores) for index, scores in zip(group, scores_of_group, strict=True)
                )
    return ScenarioResult(
        "B3",
        f"{len(indices)} texts {rounds} times, in other requests, positions and batches: the same label and scores",
        {"answers": answers, "same label": same_label, "same scores": same_scores},
        {"labels": same_label == answers, "scores": same_scores == answers},
    )


def best(scores: Any) -> str:
    """Return the label with the highest score, of an answer or of expected scores.

    >>> best({"yes": 0.1, "no": 0.9}), best([{"label": "yes", "score": 0.9}, {"label": "no", "score": 0.1}])
    ('no', 'yes')
    """
    by_label = scores if isinstance(scores, dict) else scores_of(scores)
    return str(max(by_label, key=by_label.__getitem__))


def _answers(target: Target, indices: Sequence[int]) -> list[Any]:
    """Ask for the answers of some texts; again after the time that a server says which is too slow for all of them."""
    path, body = f"/predictions/{target.model}", all_labels_body([target.oracle.texts[index] for index in indices])
    while (response := target.live.post(path, body)).status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        time.sleep(float(response.headers.get("retry-after", "1")))
    assert response.status_code == HTTPStatus.OK, response.status_code
    answers: list[Any] = response.json()
    return answers


def _exchange(live: Live, message: bytes, *, leaves: bool = False, method: str = "POST") -> LoadResponse:
    """Send bytes on a new connection; return the response, status 0 where none came."""
    with socket.create_connection(("127.0.0.1", live.ports["inference_address"]), timeout=60) as connection:
        try:
            connection.sendall(message)
            if leaves:
                return LoadResponse(0)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            headers = {name.lower(): text for name, text in response.getheaders()}
            return LoadResponse(response.status, content=response.read(), headers=headers)
        except (OSError, http.client.HTTPException):
            return LoadResponse(0)


def _problems(sent: Sent, answer: LoadResponse) -> list[str]:
    """Return how a response differs from the documented refusal."""
    problems = []
    if answer.status not in sent.statuses:
        problems.append(f"{answer.status} instead of {' or '.join(map(str, sent.statuses))}")
    if answer.content and not (isinstance(answer.value, dict) and set(answer.value) in SHAPES):
        problems.append("an error of another shape")
    ours = "x-error-message" in answer.headers  # TorchServe's own errors repeat the name in the request
    if ours and any(MARK.lower() in text.lower() for text in (answer.content.decode(), *answer.headers.values())):
        problems.append("a text in the answer")
    return problems
