#!/usr/bin/env bash
# Surprise: a Cast from string to int64 takes the digits at the beginning and drops the rest: "12abc" is 12, "2.7" is
#   2, "1e3" is 1, "1,000" is 1. Only a text without any digit at its beginning is an error. The reference
#   implementation of onnx refuses all of them.
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2.
# Users: check strings before the model, or cast to float first and look whether the number is whole; float reads "2.7"
#   and "1e3", but "12abc" as 12 too.
# Source: C++'s stoll and stod stop at the first character that does not fit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("guess: a string that is no whole number is refused")


def cast(kind: int) -> onnx.ModelProto:
    """Return a model that casts strings to a type."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=kind)], "cast",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [None])], [helper.make_tensor_value_info("y", kind, [None])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


seen = {}
for name, kind in (("int64", TensorProto.INT64), ("float", TensorProto.FLOAT)):
    session = onnxruntime.InferenceSession(cast(kind).SerializeToString(), providers=["CPUExecutionProvider"])
    for text in ("12abc", "2.7", "1e3", "1,000"):
        seen[name, text] = session.run(None, {"x": numpy.array([text], dtype=object)})[0].tolist()[0]
refused = []
for text in ("12abc", "2.7", "1e3", "1,000"):
    try:
        ReferenceEvaluator(cast(TensorProto.INT64)).run(None, {"x": numpy.array([text], dtype=object)})
    except ValueError:
        refused.append(text)
print("seen:", seen, "refused by the reference", refused)
assert [seen["int64", text] for text in refused] == [12, 2, 1, 1] and len(refused) == 4
assert seen["float", "12abc"] == 12 and seen["float", "1e3"] == 1000 and seen["float", "1,000"] == 1
PYTHON
