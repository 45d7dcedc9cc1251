#!/usr/bin/env bash
# Surprise: onnx.version_converter changes answers on the way down: a Softmax over one axis of opset 13 or later becomes one
#   of opset 11 with the same attribute, which means another set of axes there. On the way up the converter mends it.
# Versions: onnx 1.23.2, onnxruntime 1.32.0.
# Users: compare outputs before and after convert_version; export again for an old runtime instead of converting down.
# Source: up to opset 12 softmax flattens all axes from `axis` on; only the step from 12 to 13 adds Flatten and Reshape.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnx==1.23.2' 'onnxruntime==1.32.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("guess: a converted model gives the same probabilities, or the conversion is refused")
x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def model(opset: int) -> onnx.ModelProto:
    """Make a softmax over axis 1 of three."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=1)], "softmax", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(made: onnx.ModelProto) -> np.ndarray:
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


new, down = run(model(17)), run(version_converter.convert_version(model(17), 11))
old, up = run(model(11)), run(version_converter.convert_version(model(11), 17))
print(f"seen: greatest difference down {abs(new - down).max():.3f}, up {abs(old - up).max():.3f}; sums over axis 1", new.sum(1)[0].round(3), down.sum(1)[0].round(3))
assert abs(new - down).max() > 0.3 and abs(old - up).max() < 1e-6
PYTHON
