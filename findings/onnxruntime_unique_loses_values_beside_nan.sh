#!/usr/bin/env bash
# Surprise: Unique loses values if one is NaN: of NaN, 1, 0, 2 only NaN is left, and of 1, NaN, 0, 2 the NaN is lost
#   and counted as a 1. The reference implementation and numpy give four values.
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2, numpy 2.4.6.
# Users: replace NaN before Unique (Where with IsNaN), or take integers, as for ids and labels.
# Source: values are kept in a sorted map, for which NaN is neither less nor greater than any of them, and so equal.
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

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "numpy", numpy.__version__)
print("guess: each different value occurs once in the output, and a NaN changes none of the others")
floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("x", "values")]
whole = [helper.make_tensor_value_info(name, TensorProto.INT64, [None]) for name in ("first", "inverse", "counts")]
graph = helper.make_graph([helper.make_node("Unique", ["x"], ["values", "first", "inverse", "counts"])], "unique", floats[:1], [floats[1], *whole])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
nan = float("nan")
seen = {}
for values in ((nan, 1, 0, 2), (1, nan, 0, 2), (1, 0, 2, 2)):
    array = numpy.array(values, dtype=numpy.float32)
    found, _, _, counts = session.run(None, {"x": array})
    seen[values] = found.tolist(), counts.tolist(), len(numpy.unique(array))
print("seen: values, counts and number by numpy", seen)
(first, first_counts, of_first), (second, second_counts, of_second), third = seen.values()
assert len(first) == 1 and first[0] != first[0] and first_counts == [4] and of_first == 4
assert second == [0, 1, 2] and second_counts == [1, 2, 1] and of_second == 4 and third == ([0, 1, 2], [1, 1, 2], 3)
PYTHON
