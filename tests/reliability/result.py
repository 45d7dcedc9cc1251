"""A promise, the figures seen, and whether it was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Figures: TypeAlias = Mapping[str, Any]  # what was seen, by its name with its unit


@dataclass(frozen=True)
class Verdict:
    """What one scenario found."""

    promise: str  # its number, as L1
    asked: str  # what was done, and what should come of it
    seen: Figures
    claims: Mapping[str, bool]  # what must hold, in words, and whether it did

    @property
    def broken(self) -> list[str]:
        """Name what did not hold."""
        return [claim for claim, held in self.claims.items() if not held]

    @property
    def kept(self) -> bool:
        """Whether everything held."""
        return not self.broken

    def figures(self) -> str:
        """Write what was seen in one line.

        >>> Verdict("L1", "", {"right": 9, "p99 ms": 12.3456, "by": "x"}, {}).figures()
        'right 9, p99 ms 12.3, by x'
        """
        return ", ".join(f"{name} {_short(value)}" for name, value in self.seen.items())

    def row(self) -> list[str]:
        """Return its row of the table of promises."""
        return [self.promise, self.asked, self.figures(), "; ".join(["kept" if self.kept else "BROKEN", *self.broken])]

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {**vars(self), "seen": dict(self.seen), "claims": dict(self.claims), "kept": self.kept}


def _short(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )
