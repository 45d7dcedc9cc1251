"""The vector functions of MKL are called by one thread before two can call one of them first."""

from __future__ import annotations

import importlib

import pytest

import handler.engine
from handler.engine import vector_math


def test_importing_the_engine_calls_each_function_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one element, which one thread computes, in both precisions."""
    calls: list[tuple[str, str, int]] = []

    def recorded(name: str) -> object:
        return lambda x: calls.append((name, str(x.dtype), x.numel()))

    names = [function.__name__ for function in vector_math.FUNCTIONS]
    monkeypatch.setattr(vector_math, "FUNCTIONS", [recorded(name) for name in names])
    importlib.reload(handler.engine)
    assert calls == [(name, f"torch.{kind}", 1) for kind in ("float32", "float64") for name in names]
    assert {"exp", "log", "cos", "sin", "tanh", "erf"} <= set(names)
