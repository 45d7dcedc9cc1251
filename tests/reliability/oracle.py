"""Texts whose answers are known beforehand, from the archive that the server gets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handler.archive import MODEL_CONFIG
from handler.config import ModelConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.benchmark.accounting import Ledger, scores_of
from scripts.benchmark.models import unpack
from scripts.benchmark.service import write_ours
from scripts.benchmark.texts import SOURCES, read_texts, short_texts

AT_ONCE = 256  # texts that are answered beforehand in one batch
EXACT = 1e-5  # of a score in fp32; other precisions have their own


@dataclass(frozen=True)
class Exam:
    """Questions, and the answers that every version of a model gives."""

    texts: Sequence[str]
    versions: Mapping[str, Ledger]  # by the hash that stands in each answer's x-model-hash

    @classmethod
    def of(cls, texts: Sequence[str], *archives: Path) -> Exam:
        """Answer texts by each archive, in this process."""
        versions: dict[str, Ledger] = {}
        for mar in archives:
            with tempfile.TemporaryDirectory(prefix="exam-") as folder:
                home = unpack(mar, Path(folder) / "archive")
                predictor = load_predictor(home, ModelConfig.read(home / MODEL_CONFIG).handler)
            answers = [scores_of(answer) for answer in _answered(predictor, texts)]
            precision = predictor.engine.precision
            tolerance = EXACT if precision.name == "fp32" else precision.tolerance
            versions[predictor.model_hash[:16]] = Ledger(answers, tolerance)
        return cls(list(texts), versions)

    def place(self, number: int) -> int:
        """Return which text request `number` asks; texts come again after all the others."""
        return number % len(self.texts)

    def body(self, number: int) -> bytes:
        """Return the body of request `number`: one text, every label wanted."""
        return write_ours([self.texts[self.place(number)]])


def different_texts(n_texts: int) -> list[str]:
    """Return texts like the examples', all different; where those end, two are joined."""
    return short_texts(read_texts(*SOURCES), n_texts)


def _answered(predictor: Predictor, texts: Sequence[str]) -> Iterator[list[dict[str, float]]]:
    for start in range(0, len(texts), AT_ONCE):
        yield from predictor.answer_items(list(texts[start : start + AT_ONCE]), {"top_k": None})
