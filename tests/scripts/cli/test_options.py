"""Values of options: what is accepted, and the line that refuses the rest."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.cli import options

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    (options.json_object, '{"top_k": 3}', {"top_k": 3}),
    (options.positive_int, "1", 1),
    (options.natural_int, "0", 0),
    (options.positive_float, "1e-3", 0.001),
    (options.natural_float, "0", 0.0),
    (options.seconds, "0.5", 0.5),
    (options.fraction, "0", 0.0),
    (options.ratio, "1", 1.0),
    (options.port, "65535", 65535),
    (options.path_name, "a b", Path("a b")),
    (options.http_address, "http://127.0.0.1:9090/", "http://127.0.0.1:9090"),
    (options.device_name, "cuda:3", "cuda:3"),
    (options.torch_device, "cpu", torch.device("cpu")),
]
# What each refuses beside words; NaN is neither above nor below anything, and huge numbers fit into no index or clock.
REFUSED: list[tuple[Callable[[str], Any], tuple[str, ...], str]] = [
    (options.json_object, ('{"top_k": NaN}', '{"top_k": 1e400}', "[" * 100_000, "{nope", ""), "it is "),
    (options.json_object, ("[]", "null", "3"), "must be a JSON object"),
    (options.positive_int, ("0", "-1", "nan", "1e3", "", "9" * 20, "9" * 5000), "from 1 to 2147483647"),
    (options.natural_int, ("-1", "nan", "9" * 20), "from 0 to 2147483647"),
    (options.positive_float, ("0", "-1", "nan", "inf", "x", ""), "must be a number above 0"),
    (options.natural_float, ("-1", "nan", "inf", "x"), "must be a number of at least 0"),
    (options.seconds, ("0", "-1", "nan", "inf", "1e30"), "above 0 and at most 100000000"),
    (options.fraction, ("-1", "1", "nan"), "from 0 to below 1"),
    (options.ratio, ("-0.1", "1.1", "nan"), "from 0 to 1"),
    (options.port, ("-1", "65536", "x"), "65535|whole number"),
    (options.path_name, ("",), "names no file or folder"),
    (options.http_address, ("", "x", "http://", "ftp://x", "http://[::", "http://x:99999"), "such as http://127"),
    (options.device_name, ("", "nope", "mps", "meta", "cpu:x", "cuda:-1"), "must be cpu, cuda or cuda:N"),
    (options.torch_device, ("nope", "", "meta"), "must be cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("parse", "word", "value"), ACCEPTED)
def test_what_is_accepted(parse: Callable[[str], Any], word: str, value: Any) -> None:
    """Each type has a value."""
    assert parse(word) == value


@pytest.mark.parametrize(("parse", "words", "reason"), REFUSED)
def test_what_is_wrong_is_refused_with_what_is_accepted(
    parse: Callable[[str], Any], words: tuple[str, ...], reason: str
) -> None:
    """By the error that argparse prints with the name of the option, whatever the word."""
    for word in words:
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            parse(word)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused before anything is loaded, with the number of GPUs that there are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(argparse.ArgumentTypeError, match="cuda:0: PyTorch sees no GPU here"):
        options.torch_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.torch_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(argparse.ArgumentTypeError, match="cuda:2: PyTorch sees 2 GPUs here"):
        options.torch_device("cuda:2")


def test_names_that_there_are_not() -> None:
    """Nor is an empty list one of names."""
    for word in ("a,x", "", ","):
        with pytest.raises(argparse.ArgumentTypeError, match="no part; there are a, b"):
            options.names_of(word, ("a", "b"), "part")


def test_no_command_has_options_of_unchecked_numbers() -> None:
    """An int or a float of Python takes -1, NaN and what fits into no clock; an empty path is this folder."""
    root = Path(options.__file__).parents[2]
    commands = [*root.glob("scripts/**/*.py"), *root.glob("server/**/*.py"), *root.glob("tests/reliability/**/*.py")]
    for path in commands:
        if path.name == "package.py":  # whose numbers handler/config.py checks, as those of model-config.yaml
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not any(f"type={name}," in line for name in ("int", "float", "Path", "torch.device")), path
