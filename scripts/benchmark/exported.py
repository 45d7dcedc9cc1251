"""The same weights as models of ONNX, OpenVINO, CTranslate2 and torchao, in fp32 and in int8.

Optional packages are imported when they are needed.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Arrays = dict[str, Any]  # name of an input -> (rows, width) int64


class Logits(nn.Module):
    """A classifier with tensors as inputs and output."""

    def __init__(self, folder: Path, attention: str = "eager") -> None:
        super().__init__()
        load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
        self.model = load(folder, local_files_only=True, attn_implementation=attention).eval()

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


def openvino_compiled(model: Any, threads: int, streams: int = 1) -> Any:
    """Compile an OpenVINO model for the CPU with a number of threads, which the streams share."""
    openvino = importlib.import_module("openvino")
    hint = "LATENCY" if streams == 1 else "THROUGHPUT"
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
    return openvino.Core().compile_model(model, "CPU", settings)


def to_ctranslate2(folder: Path, target: Path) -> Path:
    """Convert the encoder and pooler of a BERT to CTranslate2, which has no heads.

    The converter reads a setting that transformers 5 does not write.
    """
    source = target.with_name(f"{target.name}-source")
    source.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name != "config.json":
            (source / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["position_embedding_type"] = "absolute"
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with _quiet_transformers():  # it reports that the head is left out
        importlib.import_module("ctranslate2.converters").TransformersConverter(str(source)).convert(str(target))
    return target


def ctranslate2_precisions() -> list[str]:
    """Return fp32 and those of its faster precisions that CTranslate2 supports on this CPU."""
    supported = importlib.import_module("ctranslate2").get_supported_compute_types("cpu")
    return ["float32", *(name for name in ("bfloat16", "int8", "int8_bfloat16") if name in supported)]


def ctranslate2_encoder(folder: Path, precision: str, threads: int, streams: int = 1) -> Any:
    """Open an encoder of CTranslate2 with a number of threads, which the streams share.

    Where torch was imported first, opening a model sets the threads of PyTorch, too.
    """
    make = importlib.import_module("ctranslate2").Encoder
    of_torch = torch.get_num_threads()
    try:
        return make(
            str(folder), device="cpu", compute_type=precision, intra_threads=threads // streams, inter_threads=streams
        )
    finally:
        torch.set_num_threads(of_torch)


def ctranslate2_pooled(encoder: Any, arrays: Arrays) -> Any:
    """Return what the pooler gives for a micro-batch, (rows, width) float32."""
    library = importlib.import_module("ctranslate2")
    ids = library.StorageView.from_array(arrays["input_ids"].astype(np.int32))
    lengths = library.StorageView.from_array(arrays["attention_mask"].sum(-1).astype(np.int32))
    return np.array(encoder.forward_batch(ids, lengths=lengths).pooler_output.to(library.DataType.float32))


def to_fastembed(folder: Path, onnx: Path, target: Path, max_length: int) -> Path:
    """Lay out the folder of an ONNX model as fastembed reads it.

    fastembed cuts texts at the lesser of two settings in tokenizer_config.json, `max_length` of the last training call
    among them (128 in the folder of a model that takes 512).
    """
    target.mkdir()
    (target / onnx.name).symlink_to(onnx.resolve())
    for name in ("config.json", "tokenizer.json"):
        (target / name).symlink_to((folder / name).resolve())
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"model_max_length": max_length, "max_length": max_length}
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return target


def fastembed_model(folder: Path, file: str, n_labels: int, threads: int) -> Any:
    """Open a folder of `to_fastembed`; without pooling and normalization its embeddings are the logits."""
    library = importlib.import_module("fastembed")
    description = importlib.import_module("fastembed.common.model_description")
    name = f"{folder}/{file}-{threads}"  # fastembed refuses a name that it knows
    library.TextEmbedding.add_custom_model(
        model=name,
        model_file=file,
        pooling=description.PoolingType.DISABLED,
        normalization=False,
        sources=description.ModelSource(hf=name),
        dim=n_labels,
    )
    return library.TextEmbedding(
        name, specific_model_path=str(folder), threads=threads, providers=["CPUExecutionProvider"]
    )


def to_torchao_dynamic_int8(folder: Path) -> Any:
    """Quantize the weights of a classifier by channel with torchao, its activations by token, and compile it."""
    quantization = importlib.import_module("torchao.quantization")
    model = Logits(folder, "sdpa")
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
    return _compiled(model)


def to_torchao_static_int8(folder: Path, calibration: Sequence[Arrays]) -> Any:
    """Quantize weights and activations of a classifier with torchao's quantizer for inductor on x86, and compile it."""
    pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    rows, width = torch.export.Dim("rows", min=1, max=512), torch.export.Dim("width", min=2, max=512)
    shapes = {name: {0: rows, 1: width} for name in INPUTS}
    with torch.no_grad():
        program = torch.export.export(Logits(folder, "sdpa"), _example(), dynamic_shapes=shapes)
        prepared = pt2e.prepare_pt2e(program.module(), quantizer)
        for arrays in calibration:
            prepared(**{name: torch.from_numpy(arrays[name]) for name in INPUTS})
        return _compiled(pt2e.convert_pt2e(prepared))


def _compiled(model: Any) -> Any:
    """Compile a model by inductor for any shape, with weights as constants.

    Without `max_autotune`: it took 82 s instead of 20 for the small model, was no faster, and its static int8 changed
    29 of 32 labels (torch 2.13.0, 2026-11-28). The setting is that of the process, because torch 2.13.0 does not find
    the operators of int8 when it is an option of torch.compile.
    """
    settings: Any = importlib.import_module("torch._inductor.config")
    settings.freezing = True
    return torch.compile(model, dynamic=True)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    levels: Any = transformers.logging
    before = levels.get_verbosity()
    levels.set_verbosity_error()
    try:
        yield
    finally:
        levels.set_verbosity(before)


def _example() -> tuple[Tensor, Tensor, Tensor]:
    """Return two rows, so that the export does not take the batch size for a constant 1."""
    ones = torch.ones(2, 7, dtype=torch.int64)
    return ones * 100, ones, ones * 0


def _passive() -> bool:
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
