#!/usr/bin/env bash
# Surprise: a NaN among logits is passed over by ReduceMax and ArgMax, unless it is the first value; TopK ranks it first
#   wherever it stands. numpy gives NaN and the NaN's index every time.
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2, numpy 2.4.6.
# Users: a broken model can look healthy by its label. Export the logits too and check them with isnan, or put an
#   IsNaN into the graph.
# Source: the reductions begin with the first value and keep the greater by comparison; a comparison with NaN is false.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def run(operator: str, values: np.ndarray, kind: int, **attributes: int) -> float:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "reduce",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0].item()


print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", np.__version__)
print("guess: as in numpy, the greatest value is NaN and the arg max is its index, in any order")
seen = []
for values in ([np.nan, 1, 3], [1, np.nan, 3], [1, 3, np.nan]):
    x = np.array(values, np.float32)
    seen.append((run("ReduceMax", x, TensorProto.FLOAT, keepdims=0), run("ArgMax", x, TensorProto.INT64, keepdims=0)))
    print("seen:", values, "max and arg max", seen[-1], "numpy", (float(x.max()), int(x.argmax())))
assert np.isnan(seen[0][0]) and seen[0][1] == 0 and seen[1:] == [(3, 2), (3, 1)]
PYTHON
