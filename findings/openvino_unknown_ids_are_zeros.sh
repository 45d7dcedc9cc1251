#!/usr/bin/env bash
# Surprise: a token id that the table of embeddings does not have is a vector of zeros on OpenVINO's CPU, not an error: a
#   tokenizer with added tokens beside a model that was not resized, or another model's tokenizer, gets answers with
#   status 200. ONNX Runtime refuses the same input to the same file, as PyTorch does.
# Versions: openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2.
# Users: compare the greatest id of the tokenizer with the number of rows when a model is loaded, or ids with it in front
#   of each call.
# Source: OpenVINO's Gather-8 defines zeros for indices out of range; Gather of ONNX calls them an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'openvino==2026.4.1' 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6'
cd "$work"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("openvino", "onnxruntime", "onnx")))
print("guess: an id beyond the table is an error")
table = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
node = helper.make_node("Gather", ["table", "ids"], ["embeddings"])
ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", "tokens", 3])
graph = helper.make_graph([node], "lookup", [ids], [embeddings], [numpy_helper.from_array(table, "table")])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "model.onnx")
tokens = np.array([[1, 3, 4, 30522]])
seen = openvino.Core().compile_model("model.onnx", "CPU")({"ids": tokens})["embeddings"][0].tolist()
try:
    onnxruntime.InferenceSession("model.onnx").run(None, {"ids": tokens})
    refused = False
except Exception as error:
    refused = "out of data bounds" in str(error)
print("seen: OpenVINO", seen, "ONNX Runtime refuses:", refused)
assert seen == [table[1].tolist(), table[3].tolist(), [0, 0, 0], [0, 0, 0]] and refused
PYTHON
