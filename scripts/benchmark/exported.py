"""The same weights as ONNX and OpenVINO models, in fp32 and in int8.

Optional packages are imported when they are needed.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Arrays = dict[str, Any]  # name of an input -> (rows, width) int64


class Logits(nn.Module):
    """A classifier with tensors as inputs and output."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
        self.model = load(folder, local_files_only=True, attn_implementation="eager").eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return the logits, (rows, labels)."""
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits
        return logits


def to_onnx(folder: Path, target: Path) -> Path:
    """Export a classifier to ONNX and fuse its attention by ONNX Runtime's optimizer."""
    model = Logits(folder)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            _example(),
            str(target),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "width"} for name in INPUTS} | {"logits": {0: "rows"}},
            opset_version=17,
            dynamo=False,
        )
    optimizer = importlib.import_module("onnxruntime.transformers.optimizer")
    config = model.model.config
    fused = optimizer.optimize_model(
        str(target), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(target))
    return target


def to_dynamic_int8(onnx: Path, target: Path) -> Path:
    """Quantize the weights of an ONNX model per channel; the scales of activations are computed at run time."""
    quantization = importlib.import_module("onnxruntime.quantization")
    logging.getLogger().setLevel(logging.ERROR)
    quantization.quantize_dynamic(
        str(onnx),
        str(target),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},  # float: shape inference does not know the outputs of the fused nodes
    )
    return target


def onnx_session(model: Path, threads: int) -> Any:
    """Open an ONNX model with a number of threads."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if _passive() else "1")
    options.log_severity_level = 3
    return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def to_openvino(folder: Path) -> Any:
    """Convert a classifier to OpenVINO."""
    openvino = importlib.import_module("openvino")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(Logits(folder), example_input=_example())
    for port, name in zip(model.inputs, INPUTS, strict=True):
        port.get_tensor().set_names({name})
    model.reshape({port: openvino.PartialShape([-1, -1]) for port in model.inputs})
    return model


def to_static_int8(model: Any, calibration: Sequence[Arrays]) -> Any:
    """Quantize weights and activations of an OpenVINO model with NNCF, calibrated on sample texts."""
    nncf = importlib.import_module("nncf")
    nncf.set_log_level(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nncf.quantize(
            model,
            nncf.Dataset(list(calibration)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
        )


def openvino_compiled(model: Any, threads: int) -> Any:
    """Compile an OpenVINO model for the CPU with a number of threads."""
    openvino = importlib.import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    return openvino.Core().compile_model(model, "CPU", settings)


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Return two rows, so that the export does not take the batch size for a constant 1."""
    ones = torch.ones(2, 7, dtype=torch.int64)
    return ones * 100, ones, ones * 0


def _passive() -> bool:
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
