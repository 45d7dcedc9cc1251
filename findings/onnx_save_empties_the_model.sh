#!/usr/bin/env bash
# Surprise: onnx.save with save_as_external_data takes the weights out of the model in memory: saving the same model a
#   second time, elsewhere, writes a file without weights and without an error.
# Versions: onnx 1.23.2, onnxruntime 1.32.0.
# Users: save a copy (onnx.ModelProto().CopyFrom), or load the model again after saving it; look at the size of what
#   was written.
# Source: the tensors of the model that is passed are turned into references to the file, and their bytes are cleared.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnx==1.23.2' 'onnxruntime==1.32.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("guess: saving does not change the model, so it can be saved twice")
weights = numpy_helper.from_array(np.full(4096, 2.0, np.float32), "weights")
inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096])]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096])]
graph = helper.make_graph([helper.make_node("Mul", ["x", "weights"], ["y"])], "times", inputs, outputs, [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones(4096, np.float32)})[0][0]


os.makedirs("large")
os.makedirs("small")
before = len(model.SerializeToString())
onnx.save(model, "large/model.onnx", save_as_external_data=True, location="model.onnx.data")
after = len(model.SerializeToString())
onnx.save(model, "small/model.onnx")
print("seen: the model in memory shrinks from", before, "to", after, "bytes; the second file has", os.path.getsize("small/model.onnx"))
assert before > 16000 and after < 300 and os.path.getsize("small/model.onnx") < 300
assert run("large/model.onnx") == 2.0
with open("small/model.onnx.data", "wb") as file:
    file.write(np.full(4096, 3.0, np.float32).tobytes())
print("with an older model's model.onnx.data beside it the second file computes", run("small/model.onnx"), "instead of 2.0")
assert run("small/model.onnx") == 3.0
PYTHON
