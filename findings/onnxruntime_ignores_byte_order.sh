#!/usr/bin/env bash
# Surprise: a big-endian array is read as if it were little-endian: 1.0 becomes 4.6e-41, so a model answers from nearly
#   nothing; big-endian token ids point out of the vocabulary. No warning, though numpy calls both float32.
# Versions: onnxruntime 1.32.0, onnx 1.23.2; safetensors 0.8.0 swaps the bytes of such arrays.
# Users: numbers from Java, HDF5, FITS or the network are often ">f4": array.astype(array.dtype.newbyteorder("=")) first.
# Source: the type of an array is looked up by its number, which is the same for both orders of bytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'safetensors==0.8.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from safetensors.numpy import load, save

print("onnxruntime", onnxruntime.__version__, "numpy", np.__version__)
print("guess: the numbers arrive, or the array is refused")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
native, big = np.array([1, 2, 3], "<f4"), np.array([1, 2, 3], ">f4")
answers = [session.run(None, {"x": array})[0].tolist() for array in (native, big)]
print("seen: equal arrays", (native == big).all(), "doubled", answers, "safetensors", load(save({"x": big}))["x"].tolist())
assert answers[0] == [2, 4, 6] and max(answers[1]) < 1e-30 and load(save({"x": big}))["x"].tolist() == [1, 2, 3]
PYTHON
