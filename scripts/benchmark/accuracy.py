"""What fewer bits cost: labels that stay as they are in fp32, and labels that are right, on texts held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handler.engine.weights import read_config
from scripts.benchmark.models import Subject
from scripts.benchmark.peers import Contender, Labels
from scripts.benchmark.texts import SOURCES
from scripts.cli.console import say
from scripts.readers.formats import read_csv, records

LABELS = ("label", "category", "intent")  # columns of a CSV that may hold the right answer


def measure(subject: Subject, everybody: Sequence[Contender], source: Path | None, most: int = 3000) -> dict[str, Any]:
    """Let everybody label texts that no training and no calibration has seen, and compare with fp32."""
    texts, right = read(source or SOURCES[2], most)
    names = {label: index for index, label in (read_config(subject.model).id2label or {}).items()}
    known = bool(right) and all(label in names for label in right)
    truth = np.array([names[label] for label in right], np.intp) if known else None
    reference = next(one for one in everybody if one.name.startswith("sorted"))
    expected = reference.answer(texts, 16)
    rows = []
    for one in everybody:
        if one.ours or "int8" in one.name or one.name.startswith("OpenVINO"):
            rows.append({"name": one.name, "ours": one.ours, **compare(expected, one.answer(texts, 16), truth)})
            say(f"accuracy {subject.name}: {one.name} {rows[-1]['flips']} of {len(texts)} labels differ from fp32")
    rows.insert(0, {"name": "transformers fp32", "ours": False, **compare(expected, expected, truth)})
    return {"model": subject.name, "texts": len(texts), "source": (source or SOURCES[2]).name, "contenders": rows}


def compare(expected: Labels, found: Labels, truth: Labels | None) -> dict[str, Any]:
    """Count labels.

    >>> compare(np.array([0, 1]), np.array([0, 0]), None)
    {'agreement': 0.5, 'flips': 1, 'accuracy': None}
    """
    same = found == expected
    return {
        "agreement": float(same.mean()),
        "flips": int((~same).sum()),
        "accuracy": None if truth is None else float((found == truth).mean()),
    }


def read(source: Path, most: int) -> tuple[list[str], list[str]]:
    """Return texts and, where a column has them, their labels."""
    rows = [record for _, record in records(source, read_csv) if str(record["text"]).strip()][:most]
    column = next((name for name in LABELS if rows and name in rows[0]), None)
    return [str(row["text"]) for row in rows], [str(row[column]) for row in rows] if column else []
