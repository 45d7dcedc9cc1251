"""The threads of numpy's BLAS are limited, also where other libraries have loaded one of their own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.support.samples import ROOT

CODE = """
import ctypes, re, numpy
from handler.blas_threads import limit_blas_threads
path = next(line.split()[-1] for line in open("/proc/self/maps") if "libscipy_openblas64_" in line)
n_threads = ctypes.CDLL(path).scipy_openblas_get_num_threads64_
limit_blas_threads(3)
before = n_threads()
limit_blas_threads()
print(before, n_threads())
"""


@pytest.mark.skipif(
    "scipy-openblas" not in str(np.show_config("dicts")), reason="this numpy has another BLAS than its wheels have"
)
def test_one_thread_computes_products() -> None:
    """OpenBLAS says so itself."""
    result = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["3", "1"], result.stderr
