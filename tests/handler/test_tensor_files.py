"""Files of safetensors as numpy arrays: every type, without a copy, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from handler.tensor_files import read_metadata, read_safetensors

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)


def tensors() -> dict[str, torch.Tensor]:
    """Return a tensor of each type, of random shapes, and some of unusual shapes."""
    torch.manual_seed(0)
    numbers = {str(dtype): (torch.randn(3, 5 + i) * 30).abs().to(dtype) for i, dtype in enumerate(DTYPES)}
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-40], dtype=torch.bfloat16)
    return {**numbers, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "special": special}


def test_tensors_of_every_type_are_as_the_library_reads_them(tmp_path: Path) -> None:
    """Values, types and shapes are equal; bfloat16 is widened to fp32."""
    expected = tensors()
    save_file(expected, tmp_path / "model.safetensors")
    read = read_safetensors(tmp_path / "model.safetensors")
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        plain = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        assert read[name].dtype == plain.dtype
        np.testing.assert_array_equal(read[name], plain, strict=True)


def test_an_array_is_a_view_of_the_file(tmp_path: Path) -> None:
    """Nothing is copied, an array cannot be written to, and it outlives the others and the name of the file."""
    save_file({"a": torch.ones(4, 3), "b": torch.arange(1000)}, tmp_path / "model.safetensors")
    array = read_safetensors(tmp_path / "model.safetensors")["b"]
    assert not array.flags.owndata
    assert not array.flags.writeable
    (tmp_path / "model.safetensors").unlink()
    np.testing.assert_array_equal(array, np.arange(1000))


def test_a_file_may_align_its_tensors_at_no_multiple_of_their_type(tmp_path: Path) -> None:
    """Kernels read addresses that are aligned: such tensors are copied."""
    save_file({"a": torch.ones(3, dtype=torch.int8), "b": torch.arange(4.0)}, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")] + b" "
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[7 + len(header) :])
    read = read_safetensors(tmp_path / "odd.safetensors")
    assert read["b"].flags.aligned
    np.testing.assert_array_equal(read["b"], np.arange(4, dtype=np.float32))


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A file that is not there, that is damaged, and a type that numpy does not have."""
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No such file"):
        read_safetensors(path)
    save_file({"a": torch.ones(4)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        read_safetensors(path)
    save_file({"weight": torch.ones(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(SafetensorError, match="weight is in F8_E4M3, which is not read here"):
        read_safetensors(path)


def test_metadata(tmp_path: Path) -> None:
    """They are strings by name; none are no error."""
    save_file({"a": torch.ones(4)}, tmp_path / "with.safetensors", metadata={"format": "pt"})
    save_file({"a": torch.ones(4)}, tmp_path / "without.safetensors")
    assert read_metadata(tmp_path / "with.safetensors") == {"format": "pt"}
    assert read_metadata(tmp_path / "without.safetensors") == {}
    with safe_open(tmp_path / "with.safetensors", framework="np") as file:
        assert file.metadata() == read_metadata(tmp_path / "with.safetensors")
