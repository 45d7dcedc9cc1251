#!/usr/bin/env bash
# Surprise: after quantize_dynamic the answer to a text depends on the other texts of its batch.
# Versions: onnxruntime 1.32.0, onnx 1.23.2.
# Users: do not compare such answers across batch sizes, do not cache them as if they belonged to the text, and measure
#   quality with the batches of production, padding included. Static quantisation has fixed ranges.
# Source: DynamicQuantizeLinear takes the least and the greatest value of the whole tensor, all rows and padding together.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("guess: rows of a batch are quantised on their own; a row has one answer")
random = np.random.default_rng(0)
weight = random.normal(size=(16, 4)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "linear",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    [numpy_helper.from_array(weight, "w")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "linear.onnx")
quantize_dynamic("linear.onnx", "quantized.onnx")
session = onnxruntime.InferenceSession("quantized.onnx", providers=["CPUExecutionProvider"])
row = random.normal(size=(1, 16)).astype(np.float32)
neighbour = np.full((1, 16), 50, np.float32)
alone = session.run(None, {"x": row})[0][0]
beside = session.run(None, {"x": np.concatenate([row, neighbour])})[0][0]
error_alone, error_beside = (float(np.abs(y - (row @ weight)[0]).max()) for y in (alone, beside))
print(f"seen: greatest error of the row alone {error_alone:.3f}, of the same row beside a large one {error_beside:.3f}")
assert error_beside > 4 * error_alone
PYTHON
