"""The vector functions of MKL are called by one thread before two can call one of them first."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.samples import ROOT

IMPORT = """
import json
from handler.engine import vector_math
calls = []
def recorded(name):
    return lambda x: calls.append((name, str(x.dtype), x.numel()))
names = [function.__name__ for function in vector_math.FUNCTIONS]
vector_math.FUNCTIONS = [recorded(name) for name in names]
import handler.engine.torch_engine
print(json.dumps([names, calls]))
"""


def test_importing_the_engine_calls_each_function_once() -> None:
    """For one element, which one thread computes, in both precisions."""
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    names, calls = json.loads(done.stdout)
    assert calls == [[name, f"torch.{kind}", 1] for kind in ("float32", "float64") for name in names]
    assert {"exp", "log", "cos", "sin", "tanh", "erf"} <= set(names)
