"""B2: requests that schemathesis makes from the server's own OpenAPI document, right ones and wrong ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from scripts.client.http import Management
from tests.reliability.result import Verdict
from tests.reliability.stage import Stage

SERVER_ERROR = 500


def fuzzed(stage: Stage, examples: int) -> Verdict:
    """B2: whatever the document allows or forbids, no 5xx, no worker restarted, only what the document tells.

    Args:
        examples: of each route, so many that the document allows and as many that it forbids.
    """
    import schemathesis
    from schemathesis.core.failures import FailureGroup
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    stage.up()
    live, pid = stage.live, stage.worker()
    document = Management(live.server).describe(stage.target.model)["openapi"]
    document |= {"security": []}  # keys are F7's: without one nothing else would be looked at
    documented = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    statuses, problems = Counter[int](), dict[str, str]()
    quiet = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    found: Any = schemathesis.openapi.from_dict(document).get_all_operations()
    operations = [one.ok() for one in found]
    for operation in operations:
        for mode in GenerationMode.from_choice("all"):
            label = f"{operation.label} {mode.value}"

            @quiet
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any, label: str) -> None:
                reply = case.call(base_url=live.url, headers={"Authorization": f"Bearer {live.key}"}, timeout=60)
                statuses[reply.status_code] += 1
                if reply.status_code >= SERVER_ERROR:
                    problems[label] = f"{reply.status_code} {reply.text[:80]}"
                try:
                    case.validate_response(reply, checks=documented)
                except FailureGroup as failures:
                    told = (failure.title + " " + failure.message for failure in failures.exceptions)
                    problems.setdefault(label, " ".join("; ".join(told).split())[:300])

            ask(label=label)
    return Verdict(
        "B2",
        f"schemathesis, {examples} allowed and {examples} forbidden requests for each of {len(operations)} routes: "
        "no 5xx, only what the document tells, the same worker",
        {"requests": statuses.total()}
        | {"by status": " ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))},
        {
            **{f"{label}: {problem}": False for label, problem in problems.items()},
            "some were answered": statuses[200] > 0,
            "some were refused": statuses[422] > 0,
            "the same worker": stage.worker() == pid,
        },
    )
