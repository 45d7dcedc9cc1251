"""Whether there is a GPU: PyTorch is asked where there may be one, and is not imported elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from handler.gpu_presence import has_gpu
from tests.support.samples import ROOT


@pytest.mark.parametrize("is_available", [True, False])
def test_torch_is_asked_where_there_is_a_driver(
    is_available: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may have no GPU, or CUDA_VISIBLE_DEVICES hides it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    assert has_gpu([str(tmp_path / "none"), str(tmp_path)]) is is_available
    assert not has_gpu([str(tmp_path / "none")])


def test_without_a_driver_torch_is_not_imported() -> None:
    """Nor is it needed where there is one."""
    code = (
        "import sys\nfrom handler.gpu_presence import has_gpu\n"
        "assert not has_gpu(['/none']) and 'torch' not in sys.modules\n"
        "sys.modules['torch'] = None\nassert not has_gpu(['/dev/null'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
