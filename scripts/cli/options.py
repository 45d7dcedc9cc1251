"""Types of command-line options, for `argparse`."""

from __future__ import annotations

import argparse
import json
from typing import Any


def json_object(word: str) -> dict[str, Any]:
    """Parse a JSON object."""
    value = json.loads(word)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def positive_int(word: str) -> int:
    """Parse a whole number above zero."""
    number = int(word)
    if number < 1:
        raise ValueError
    return number
