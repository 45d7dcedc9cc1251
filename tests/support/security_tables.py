"""Render the tables of SECURITY.md from the OpenVEX file, one for each library.

`python -m tests.support.security_tables` writes them after a change of deploy/security/torchserve.openvex.json.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from tests.support.samples import ROOT

SECURITY = ROOT / "SECURITY.md"
VEX = ROOT / "deploy" / "security" / "torchserve.openvex.json"
BEGIN, END = "<!-- tables: made from deploy/security/torchserve.openvex.json -->\n", "<!-- end of the tables -->\n"
STATUS = {"affected": "yes", "not_affected": "no", "fixed": "fixed", "under_investigation": "assume yes"}


def render(document: Any) -> str:
    """Return the tables; statements that differ only in the number share a line."""
    lines = ["| library | CVE | weakness | reachable here | why, and what stops it |", "|---|---|---|---|---|"]
    for (library, description, status, reason), statements in groupby(document["statements"], key=row):
        numbers = ", ".join(statement["vulnerability"]["name"] for statement in statements)
        lines.append(f"| {library} | {numbers} | {description} | {status} | {reason} |")
    return "\n".join(lines) + "\n"


def row(statement: Any) -> tuple[str, str, str, str]:
    """Return library, weakness, status and reason of one statement."""
    parts = [part["@id"].removeprefix("pkg:maven/") for part in statement["products"][0]["subcomponents"]]
    library = ", ".join(part.partition("/")[2].replace("@", " ") for part in parts)
    reason = next(statement[key] for key in REASONS if key in statement)
    return library, statement["vulnerability"]["description"], STATUS[statement["status"]], reason


REASONS = ("impact_statement", "action_statement", "status_notes")


def replaced(text: str) -> str:
    """Return the text of SECURITY.md with the tables of the current statements."""
    before, _, rest = text.partition(BEGIN)
    return (
        before
        + BEGIN
        + "\n"
        + render(json.loads(VEX.read_text(encoding="utf-8")))
        + "\n"
        + END
        + rest.partition(END)[2]
    )


if __name__ == "__main__":
    SECURITY.write_text(replaced(SECURITY.read_text(encoding="utf-8")), encoding="utf-8")
