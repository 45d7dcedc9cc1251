#!/usr/bin/env bash
# Surprise: the same cast to float8_e4m3fn saturates in ONNX Runtime (500 and even infinity become 448) and gives NaN in
#   numpy with ml_dtypes.
# Versions: ml-dtypes 0.5.4, onnxruntime 1.32.0, onnx 1.23.2.
# Users: clip to -448 .. 448 before every cast, so that the library does not matter, and check for infinities before it:
#   saturation hides them.
# Source: the ONNX operator Cast has saturate=1 by default; ml_dtypes follows the type's table, which has NaN but no infinity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ml-dtypes==0.5.4' 'numpy==2.4.6' 'onnxruntime==1.32.0' 'onnx==1.23.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print("ml-dtypes", ml_dtypes.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("guess: the two agree on what is out of range")
values = np.array([448, 464, 500, np.inf], np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT),
    ],
    "cast",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
    [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
by_runtime = session.run(None, {"x": values})[0].tolist()
by_numpy = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32).tolist()
print("seen:", values.tolist(), "in onnxruntime", by_runtime, "in ml_dtypes", by_numpy)
assert by_runtime == [448, 448, 448, 448]
assert by_numpy[0] == 448 and np.isnan(by_numpy[2:]).all()
PYTHON
