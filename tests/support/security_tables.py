"""Render the tables of SECURITY.md from the OpenVEX files of deploy/security, one table for each file.

`python -m tests.support.security_tables` writes them after a change of a file.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from tests.support.samples import ROOT

SECURITY = ROOT / "SECURITY.md"
VEX = ROOT / "deploy" / "security" / "torchserve.openvex.json"  # libraries of TorchServe's jar
STANDALONE_VEX = VEX.with_name("standalone.openvex.json")  # packages of the standalone server
BEGIN, END = "<!-- tables: made from deploy/security/{} -->\n", "<!-- end of the tables -->\n"
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
    (product,) = statement["products"]
    parts = [
        part["@id"] for part in product.get("subcomponents", [product])
    ]  # pkg:maven/GROUP/NAME@..., pkg:pypi/NAME@...
    library = ", ".join(part.rpartition("/")[2].replace("@", " ") for part in parts)
    reason = next(statement[key] for key in REASONS if key in statement)
    return library, statement["vulnerability"]["description"], STATUS[statement["status"]], reason


REASONS = ("impact_statement", "action_statement", "status_notes")


def replaced(text: str) -> str:
    """Return the text of SECURITY.md with the tables of the current statements."""
    for file in (VEX, STANDALONE_VEX):
        begin = BEGIN.format(file.name)
        before, _, rest = text.partition(begin)
        tables = render(json.loads(file.read_text(encoding="utf-8")))
        text = f"{before}{begin}\n{tables}\n{END}{rest.partition(END)[2]}"
    return text


if __name__ == "__main__":
    SECURITY.write_text(replaced(SECURITY.read_text(encoding="utf-8")), encoding="utf-8")
