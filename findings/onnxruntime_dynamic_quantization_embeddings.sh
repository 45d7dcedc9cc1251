#!/usr/bin/env bash
# Surprise: quantize_dynamic also quantises the table of word embeddings, with one scale for all of it: one row of large
#   numbers wipes out the others.
# Versions: onnxruntime 1.32.0, onnx 1.23.2.
# Users: pass op_types_to_quantize=["MatMul"] to leave embeddings alone, or look at the range of the table first; a file
#   that shrinks to a quarter is a sign that the table was quantised.
# Source: Gather is among the operators that are quantised by default, per tensor.
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
print("guess: dynamic quantisation is about matrix products; a lookup of an embedding stays exact")
table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
table[3] *= 100  # one token that training has blown up
graph = helper.make_graph(
    [helper.make_node("Gather", ["table", "id"], ["y"])],
    "lookup",
    [helper.make_tensor_value_info("id", TensorProto.INT64, ["n"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    [numpy_helper.from_array(table, "table")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "lookup.onnx")
seen = {}
for name, options in (("default", {}), ("MatMul", {"op_types_to_quantize": ["MatMul"]})):
    quantize_dynamic("lookup.onnx", "quantized.onnx", **options)
    session = onnxruntime.InferenceSession("quantized.onnx", providers=["CPUExecutionProvider"])
    seen[name] = session.run(None, {"id": np.array([0])})[0][0]
print("seen: embedding of token 0", table[0].tolist(), "after quantize_dynamic", seen["default"].tolist())
print("seen: with MatMul only", seen["MatMul"].tolist())
assert np.array_equal(seen["MatMul"], table[0]) and np.count_nonzero(seen["default"]) <= 1
PYTHON
