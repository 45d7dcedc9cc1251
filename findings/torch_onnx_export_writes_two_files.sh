#!/usr/bin/env bash
# Surprise: torch.onnx.export("model.onnx") also writes model.onnx.data, which holds the weights, however small the model
#   is: model.onnx alone does not load.
# Versions: torch 2.13.0, onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0.
# Users: copy both files under their names, or pass external_data=False for models below 2 GB.
# Source: the exporter that is the default since torch 2.9 saves weights beside the graph unless told otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6' 'onnx==1.23.2' 'onnxscript==0.7.2' 'onnxruntime==1.32.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
import os

import onnxruntime
import torch

logging.disable(logging.WARNING)
print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
print("guess: one file, as with earlier versions")
model = torch.nn.Linear(64, 32).eval()
sizes = {}
for folder, options in (("default", {}), ("single", {"external_data": False})):
    os.mkdir(folder)
    torch.onnx.export(model, (torch.zeros(1, 64),), f"{folder}/model.onnx", verbose=False, **options)
    sizes[folder] = {name: os.path.getsize(f"{folder}/{name}") for name in sorted(os.listdir(folder))}
os.mkdir("copied")
os.replace("default/model.onnx", "copied/model.onnx")
onnxruntime.set_default_logger_severity(4)
try:
    onnxruntime.InferenceSession("copied/model.onnx", providers=["CPUExecutionProvider"])
    raise SystemExit("changed: model.onnx loads alone")
except Exception as error:
    print("seen: loading model.onnx alone raises", type(error).__name__)
onnxruntime.InferenceSession("single/model.onnx", providers=["CPUExecutionProvider"])
print("seen:", sizes)
assert sorted(sizes["default"]) == ["model.onnx", "model.onnx.data"] and sorted(sizes["single"]) == ["model.onnx"]
PYTHON
