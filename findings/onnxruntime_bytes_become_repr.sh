#!/usr/bin/env bash
# Surprise: bytes given to a string input are not decoded: the model gets the text "b'caf\\xc3\\xa9'". The arrays that
#   Triton's Python client hands out are of such bytes. None becomes the text "None".
# Versions: onnxruntime 1.32.0, onnx 1.23.2, tritonclient 2.73.0.
# Users: decode every element before InferenceSession.run, and refuse what is not a str: each value is taken by its str().
# Source: the Python binding turns each element of an object array into a string by str().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'tritonclient[http]==2.73.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("guess: UTF-8 bytes are decoded, or refused with an error")
graph = helper.make_graph(
    [helper.make_node("Identity", ["text"], ["out"])],
    "identity",
    [helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])],
    [helper.make_tensor_value_info("out", TensorProto.STRING, ["n"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
from_triton = deserialize_bytes_tensor(serialize_byte_tensor(np.array(["café"], dtype=object)).item())
out = session.run(None, {"text": np.array([*from_triton, None, 1.5], dtype=object)})[0].tolist()
print("seen:", from_triton.tolist(), "and None and 1.5 become", out)
assert out == ["b'caf\\xc3\\xa9'", "None", "1.5"]
PYTHON
