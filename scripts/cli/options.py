"""Types of command-line options, for `argparse`: what is wrong is refused in one line that says what is accepted."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handler.errors import MalformedBody
from handler.protocol import loads

if TYPE_CHECKING:
    import torch

MOST = 2**31 - 1  # of what a command counts; more fits neither into clocks nor into indices
LONGEST_S = 1e8  # three years


def json_object(word: str) -> dict[str, Any]:
    """Parse a JSON object as a server does: without NaN, and without numbers that do not fit."""
    try:
        value = loads(word)
    except MalformedBody as error:
        raise ArgumentTypeError(str(error).replace("body", "it", 1)) from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("must be a JSON object")
    return value


def positive_int(word: str) -> int:
    """Parse a whole number above zero."""
    return _whole(word, 1)


def natural_int(word: str) -> int:
    """Parse a whole number, zero included."""
    return _whole(word, 0)


def positive_float(word: str) -> float:
    """Parse a finite number above zero."""
    if not 0 < (number := _number(word)) < math.inf:
        raise ArgumentTypeError(f"must be a number above 0, not {word!r}")
    return number


def natural_float(word: str) -> float:
    """Parse a finite number, zero included."""
    if not 0 <= (number := _number(word)) < math.inf:
        raise ArgumentTypeError(f"must be a number of at least 0, not {word!r}")
    return number


def seconds(word: str) -> float:
    """Parse a time that clocks can wait for."""
    if not 0 < (number := _number(word)) <= LONGEST_S:
        raise ArgumentTypeError(f"must be a number above 0 and at most {LONGEST_S:.0f}, not {word!r}")
    return number


def fraction(word: str) -> float:
    """Parse a number from 0 to below 1."""
    if not 0 <= (number := _number(word)) < 1:
        raise ArgumentTypeError(f"must be a number from 0 to below 1, not {word!r}")
    return number


def ratio(word: str) -> float:
    """Parse a number from 0 to 1."""
    if not 0 <= (number := _number(word)) <= 1:
        raise ArgumentTypeError(f"must be a number from 0 to 1, not {word!r}")
    return number


def port(word: str) -> int:
    """Parse a port to listen on; 0: any free one."""
    if (number := _whole(word, 0)) > 65535:
        raise ArgumentTypeError(f"must be a port, at most 65535, not {word!r}")
    return number


def path_name(word: str) -> Path:
    """Parse the path of a file or a folder; an empty one is a shell variable that is not set, and no folder."""
    if not word:
        raise ArgumentTypeError("names no file or folder: is a variable of the shell not set?")
    return Path(word)


def http_address(word: str) -> str:
    """Parse the address of a server over HTTP."""
    try:
        parts = urlsplit(word)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address of IPv6 that is none
        is_address = False
    if not is_address:
        raise ArgumentTypeError(f"must be an address such as http://127.0.0.1:9090, not {word!r}")
    return word.rstrip("/")


def names_of(word: str, accepted: Sequence[str], noun: str) -> tuple[str, ...]:
    """Parse names between commas.

    >>> names_of("a, b", ["a", "b", "c"], "part")
    ('a', 'b')
    """
    names = tuple(name.strip() for name in word.split(",") if name.strip())
    unknown = [name for name in names if name not in accepted]
    if unknown or not names:
        problem = f"{', '.join(unknown)} is no {noun}" if unknown else f"names no {noun}"
        raise ArgumentTypeError(f"{problem}; there are {', '.join(accepted)}")
    return names


def device_name(word: str) -> str:
    """Parse the name of a device that the engine computes on, whether it is there or not."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", word):
        raise ArgumentTypeError(f"must be cpu, cuda or cuda:N, not {word!r}")
    return word


def torch_device(word: str) -> torch.device:
    """Parse the name of a device that is there."""
    import torch

    device = torch.device(device_name(word))
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= n_gpus:
        raise ArgumentTypeError(f"{word}: PyTorch sees {n_gpus or 'no'} GPU{'s' if n_gpus > 1 else ''} here")
    return device


def _whole(word: str, least: int) -> int:
    try:
        number = int(word)
    except ValueError:
        number = least - 1
    if not least <= number <= MOST:
        raise ArgumentTypeError(f"must be a whole number from {least} to {MOST}, not {word[:40]!r}")
    return number


def _number(word: str) -> float:
    """Return NaN, which no range has, for a word that is no number."""
    try:
        return float(word)
    except ValueError:
        return math.nan
