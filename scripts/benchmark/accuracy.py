"""Cost of lower precision: agreement of labels with fp32, and accuracy, on texts of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handler.engine.config_problems import read_config
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.peers import Labels, Peer
from scripts.benchmark.texts import SOURCES
from scripts.cli.console import say
from scripts.readers.formats import read_csv, records

LABELS = ("label", "category", "intent")  # columns of a CSV that may hold the right answer


def measure(model: BenchmarkModel, peers: Sequence[Peer], source: Path | None, max_texts: int = 3000) -> dict[str, Any]:
    """Label texts that no training and no calibration has seen with every peer, and compare with fp32."""
    texts, labels = read(source or SOURCES[2], max_texts)
    names = {label: index for index, label in (read_config(model.model_folder).id2label or {}).items()}
    labelled = bool(labels) and all(label in names for label in labels)
    truth = np.array([names[label] for label in labels], np.intp) if labelled else None
    reference = next(peer for peer in peers if peer.name.startswith("sorted"))
    expected = reference.label(texts, 16)
    rows = []
    for peer in peers:
        if peer.ours or "int8" in peer.name or peer.name.startswith("OpenVINO"):
            rows.append({"name": peer.name, "ours": peer.ours, **compare(expected, peer.label(texts, 16), truth)})
            say(f"accuracy {model.name}: {peer.name} {rows[-1]['flips']} of {len(texts)} labels differ from fp32")
    rows.insert(0, {"name": "transformers fp32", "ours": False, **compare(expected, expected, truth)})
    return {"model": model.name, "texts": len(texts), "source": (source or SOURCES[2]).name, "contenders": rows}


def compare(expected: Labels, labels: Labels, truth: Labels | None) -> dict[str, Any]:
    """Return agreement with the expected labels, the number of changed labels, and the accuracy.

    >>> compare(np.array([0, 1]), np.array([0, 0]), None)
    {'agreement': 0.5, 'flips': 1, 'accuracy': None}
    """
    same = labels == expected
    return {
        "agreement": float(same.mean()),
        "flips": int((~same).sum()),
        "accuracy": None if truth is None else float((labels == truth).mean()),
    }


def read(source: Path, max_texts: int) -> tuple[list[str], list[str]]:
    """Return texts and their labels, if a column of LABELS exists."""
    rows = [record for _, record in records(source, read_csv) if str(record["text"]).strip()][:max_texts]
    column = next((name for name in LABELS if rows and name in rows[0]), None)
    return [str(row["text"]) for row in rows], [str(row[column]) for row in rows] if column else []
