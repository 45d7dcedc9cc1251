"""Texts whose answers are computed before the run, from the archive that the server gets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from handler.archive import MODEL_CONFIG
from handler.config import ModelConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.benchmark.accounting import ExpectedScores, scores_of
from scripts.benchmark.models import unpack
from scripts.benchmark.servers import all_labels_body
from scripts.benchmark.texts import SOURCES, read_texts, short_texts

BATCH = 256  # texts that are answered in one call
FP32_TOLERANCE = 1e-5  # of a score; other precisions have their own


@dataclass(frozen=True)
class Oracle:
    """Texts, and the answers that every version of a model gives."""

    texts: Sequence[str]
    versions: Mapping[str, ExpectedScores]  # by the hash in the header x-model-hash of each answer

    @classmethod
    def of(cls, texts: Sequence[str], *archives: Path) -> Oracle:
        """Answer texts by each archive, in this process."""
        versions: dict[str, ExpectedScores] = {}
        for mar in archives:
            with tempfile.TemporaryDirectory(prefix="oracle-") as folder:
                home = unpack(mar, Path(folder) / "archive")
                predictor = load_predictor(home, ModelConfig.read(home / MODEL_CONFIG).handler)
            answers = [scores_of(answer) for answer in _answers(predictor, texts)]
            precision = predictor.engine.precision
            tolerance = FP32_TOLERANCE if precision.name == "fp32" else precision.tolerance
            versions[predictor.model_hash[:16]] = ExpectedScores(answers, tolerance)
        return cls(list(texts), versions)

    def index(self, number: int) -> int:
        """Return the index of the text of request `number`; texts come again after all the others."""
        return number % len(self.texts)

    def body(self, number: int) -> bytes:
        """Return the body of request `number`: one text, all labels."""
        return all_labels_body([self.texts[self.index(number)]])


def different_texts(n_texts: int) -> list[str]:
    """Return texts like the examples', all different; where those end, two are joined."""
    return short_texts(read_texts(*SOURCES), n_texts)


def _answers(predictor: Predictor, texts: Sequence[str]) -> Iterator[list[dict[str, float]]]:
    for start in range(0, len(texts), BATCH):
        yield from predictor.answer_items(list(texts[start : start + BATCH]), {"top_k": None})
