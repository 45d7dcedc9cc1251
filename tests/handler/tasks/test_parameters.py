"""Parameters of requests: what the schema in the OpenAPI document allows is accepted, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from handler.errors import InvalidInput
from handler.tasks.parameters import Integer


@pytest.mark.parametrize("value", [1, 3, 3.0, 100, 0, 101, 2.5, 1e300, True, "3", [3]])
def test_whole_numbers_are_those_of_the_schema(value: Any) -> None:
    """A fraction of zero is no fraction, as JSON Schema says."""
    parameter = Integer(default=5, le=100)
    if Draft202012Validator(parameter.schema()).is_valid(value):
        read = parameter.read("top_k", value)
        assert read == value
        assert type(read) is int
    else:
        with pytest.raises(InvalidInput, match="top_k must be a whole number from 1 to 100"):
            parameter.read("top_k", value)
