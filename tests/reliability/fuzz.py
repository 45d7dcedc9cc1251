"""B2: valid and invalid requests that schemathesis generates from the server's own OpenAPI document."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from scripts.client.http import Management
from scripts.client.settings import effective
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer

TOO_LARGE = 413
SERVER_ERROR = 500


def is_refused_unread(status: int, content: bytes, body: bytes, limit: int) -> bool:
    """Return whether this is how TorchServe refuses a body above `max_request_size`: without content.

    Its HTTP library answers before a key or a model is looked at, so neither the handler nor the document decides.

    >>> is_refused_unread(413, b"", bytes(11), 10), is_refused_unread(413, b"", bytes(10), 10)
    (True, False)
    >>> is_refused_unread(422, b"", bytes(11), 10), is_refused_unread(413, b"{}", bytes(11), 10)
    (False, False)
    """
    return status == TOO_LARGE and not content and len(body) > limit


def fuzzed(server: ScenarioServer, examples: int) -> ScenarioResult:
    """B2: whatever the document allows or forbids, no 5xx, no worker restart, only documented responses.

    The one response that no schema describes is TorchServe's own to a body above `max_request_size`; it is counted.

    Args:
        examples: of each route: this many that the document allows and as many that it forbids.
    """
    import schemathesis
    from schemathesis.core.failures import FailureGroup
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    server.up()
    live, pid = server.live, server.worker()
    document = Management(live.server).describe(server.target.model)["openapi"]
    document |= {"security": []}  # F7 tests keys; a request without one reaches nothing else
    documented = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    limit = int(effective(live.config)["max_request_size"].value)
    statuses, problems, n_unread = Counter[int](), dict[str, str](), 0
    profile = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    routes: Any = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [route.ok() for route in routes]
    for operation in operations:
        for mode in GenerationMode.from_choice("all"):
            label = f"{operation.label} {mode.value}"

            @profile
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any, label: str) -> None:
                nonlocal n_unread
                response = case.call(base_url=live.url, headers={"Authorization": f"Bearer {live.key}"}, timeout=60)
                statuses[response.status_code] += 1
                if response.status_code >= SERVER_ERROR:
                    problems[label] = f"{response.status_code} {response.text[:80]}"
                answer = (response.status_code, response.content)
                if not server.is_standalone and is_refused_unread(*answer, response.request.body or b"", limit):
                    n_unread += 1
                    return
                try:
                    case.validate_response(response, checks=documented)
                except FailureGroup as failures:
                    messages = (failure.title + " " + failure.message for failure in failures.exceptions)
                    problems.setdefault(label, " ".join("; ".join(messages).split())[:300])

            ask(label=label)
    return ScenarioResult(
        "B2",
        f"schemathesis, {examples} allowed and {examples} forbidden requests for each of {len(operations)} routes: "
        "no 5xx, only documented responses, the same worker",
        {"requests": statuses.total(), "refused unread by TorchServe": n_unread}
        | {"by status": " ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))},
        {
            **{f"{label}: {problem}": False for label, problem in problems.items()},
            "some were answered": statuses[200] > 0,
            "some were refused": statuses[422] > 0,
            "the same worker": server.worker() == pid,
        },
    )
