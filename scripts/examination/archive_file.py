"""Examine an archive: what it holds, where it comes from, and whether it answers as when it was packed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from handler import archive
from handler.protocol import JSON
from scripts.archives.store import Archive
from scripts.client.backends import load
from scripts.examination.examination import Examination
from scripts.examination.folder import served_facts, tokenizer_facts

CALIBRATIONS = {"## int8": "int8", "## fp8": "fp8"}  # headings of the model card


def examine_archive(file: Path) -> Examination:
    """Examine one .mar, and run its self-test."""
    examination = Examination(str(file), "archive")
    read = examination.attempt(Archive.read, file)
    if read is None:
        return examination
    damage = read.damage()
    examination.sections["archive"] = {
        "name": read.name,
        "version": read.version,
        "task": read.manifest.get("task"),
        "labels": [] if damage else read.labels(),
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "model_hash": read.hash,
    }
    if damage:
        examination.refuse(ValueError(f"{damage}: pack again"))
        return examination
    names = read.manifest["files"]
    examination.sections["settings"] = {archive.MODEL_CONFIG: read.text(archive.MODEL_CONFIG).splitlines()}
    if archive.PROVENANCE in names:
        examination.sections["provenance"] = dict(read.json(archive.PROVENANCE))
    else:
        examination.note("it does not say where its model comes from: it was packed before archives did")
    goldens = [name for name in (archive.GOLDEN, *archive.GOLDEN_BY_PRECISION.values()) if name in names]
    tests = {name: len(read.json(name)["items"]) for name in goldens}
    if calibration := calibration_facts(read.text(archive.CARD)):
        examination.sections["calibration"] = calibration
    with examination.noting_warnings(), ExitStack() as stack:
        predictor = examination.attempt(load, file, stack)
        if predictor is not None:
            examination.sections["self-test"] = {
                "inputs": tests,
                "result": f"passed here in {predictor.engine.precision.name}",
            }
            examination.sections["tokenizer"] = tokenizer_facts(predictor.tokenizer)
            examination.sections["served"] = served_facts(predictor)
    return examination


def calibration_facts(card: str) -> dict[str, JSON]:
    """Return the sections of a model card that tell what int8 or fp8 cost.

    >>> calibration_facts("## int8\\n\\n- accuracy: 0.9\\n\\n## Labels\\n")
    {'int8': ['accuracy: 0.9']}
    """
    facts: dict[str, JSON] = {}
    current: list[str] | None = None
    for line in card.splitlines():
        if line.startswith("## "):
            current = facts.setdefault(CALIBRATIONS[line], []) if line in CALIBRATIONS else None
        elif current is not None and line.strip():
            current.append(line.removeprefix("- "))
    return facts
