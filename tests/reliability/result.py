"""The result of a scenario: its figures, and whether its invariants hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Figures: TypeAlias = Mapping[str, Any]  # by name with unit


@dataclass(frozen=True)
class ScenarioResult:
    """What one run of a scenario measured."""

    scenario: str  # its id, as L1
    procedure: str  # what was done, and what must hold
    figures: Figures
    invariants: Mapping[str, bool]  # each in words, and whether it held

    @property
    def violations(self) -> list[str]:
        """The invariants that did not hold."""
        return [invariant for invariant, held in self.invariants.items() if not held]

    @property
    def holds(self) -> bool:
        """Whether every invariant held."""
        return not self.violations

    def summary(self) -> str:
        """Return the figures in one line.

        >>> ScenarioResult("L1", "", {"right": 9, "p99 ms": 12.3456, "by": "x"}, {}).summary()
        'right 9, p99 ms 12.3, by x'
        """
        return ", ".join(f"{name} {_short(value)}" for name, value in self.figures.items())

    def row(self) -> list[str]:
        """Return its row of the table of scenarios."""
        state = "holds" if self.holds else "VIOLATED"
        return [self.scenario, self.procedure, self.summary(), "; ".join([state, *self.violations])]

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return {**vars(self), "figures": dict(self.figures), "invariants": dict(self.invariants), "holds": self.holds}


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
