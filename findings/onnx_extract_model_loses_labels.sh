#!/usr/bin/env bash
# Surprise: onnx.utils.extract_model and onnx-graphsurgeon's import and export drop metadata_props, where exporters and
#   servers keep label names, the pooling or the version of a tokenizer: the model answers as before, its labels are
#   gone. The version converter, shape inference, ONNX Runtime's quantizer and its saved optimised models keep them.
# Versions: onnx 1.23.2, onnx-graphsurgeon 0.6.1, onnxruntime 1.32.0.
# Users: copy them: onnx.helper.set_model_props(new, {entry.key: entry.value for entry in old.metadata_props}).
# Source: both make a new model around the graph; model_version and doc_string are not taken over either.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'onnx==1.23.2' 'onnx-graphsurgeon==0.6.1' 'onnxruntime==1.32.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
from importlib.metadata import version

import numpy
import onnx
import onnx.utils
import onnx.version_converter
import onnx_graphsurgeon
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
print(*(f"{package} {version(package)}" for package in ("onnx", "onnx-graphsurgeon", "onnxruntime")))
print("guess: a tool that changes the graph of a model keeps its metadata")
weights = numpy_helper.from_array(numpy.ones((2, 2), numpy.float32), "weights")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2]) for name in ("texts", "logits")]
graph = helper.make_graph([helper.make_node("MatMul", ["texts", "weights"], ["logits"])], "graph", ends[:1], ends[1:], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
helper.set_model_props(model, {"labels": "neg,pos"})
onnx.save(model, "model.onnx")
onnx.utils.extract_model("model.onnx", "part.onnx", ["texts"], ["logits"])
quantize_dynamic("model.onnx", "int8.onnx")
options = onnxruntime.SessionOptions()
options.optimized_model_filepath = "optimised.onnx"
onnxruntime.InferenceSession("model.onnx", options)
models = {
    "extract_model": onnx.load("part.onnx"),
    "onnx-graphsurgeon": onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model)),
    "version converter": onnx.version_converter.convert_version(model, 18),
    "infer_shapes": onnx.shape_inference.infer_shapes(model),
    "quantize_dynamic": onnx.load("int8.onnx"),
    "optimised by ONNX Runtime": onnx.load("optimised.onnx"),
}
seen = {name: {entry.key: entry.value for entry in changed.metadata_props}.get("labels") for name, changed in models.items()}
print("seen: labels after", seen)
assert [name for name, labels in seen.items() if labels is None] == ["extract_model", "onnx-graphsurgeon"]
PYTHON
