"""Model folder, or unpacked archive -> Predictor, self-tested before it is ready."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler import archive
from handler.config import ServingConfig
from handler.engine import Engine
from handler.engine.config_problems import read_config
from handler.engine.device import CPU, AnyDevice
from handler.engine.kernels import library
from handler.engine.lean_import import import_transformers
from handler.engine.native_engine import NativeEngine, precision_of
from handler.model_folder import ModelFolder
from handler.predictor import Predictor
from handler.protocol import ModelId
from handler.self_test import check_golden
from handler.tasks import auto_class_for, operations_for
from handler.tokenization import Tokenizer
from handler.torch_presence import has_torch, require_torch

if TYPE_CHECKING:
    from handler.engine.torch_engine import TorchEngine

YOUNG_OBJECTS = 20_000  # that are made between two collections; 700, Python's default, are those of three requests


def is_native(folder: Path, config: ServingConfig, device: AnyDevice = CPU) -> bool:
    """Tell whether an unpacked archive is served without PyTorch and the models of transformers.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    return (folder / archive.MANIFEST).is_file() and precision_of(folder / archive.MODEL, config, device) is not None


def load_predictor(
    folder: Path,
    config: ServingConfig | None = None,
    device: AnyDevice | None = None,
    *,
    name: str = "model",
    version: str = "1.0",
    packed: bool = True,
    timeout_s: float = math.inf,
    max_response_bytes: int | None = None,
    serving: bool = False,
    shared: bool = False,
) -> Predictor:
    """Load a model folder, or an unpacked archive, which must be what was packed.

    Args:
        folder: of a model, or of an unpacked archive.
        packed: False computes as plain transformers does, for a reference.
        timeout_s: seconds for one batch; computation that has not begun by then is refused as Overloaded.
        max_response_bytes: of one answer; a longer one is refused as AnswerTooLong.
        serving: whether this process only serves: it then imports no more of transformers than this archive needs.
        shared: whether a server owns the folder; its processes share the weights by a file that is written into it.

    Raises:
        ModelMismatch: not a model folder, or an archive that changed.
        ConfigError: a setting that this model or this machine cannot obey, or PyTorch is needed and not installed.
        GoldenMismatch: the model answers differently from when it was packed.
    """
    config = config or ServingConfig()
    is_archive = (folder / archive.MANIFEST).is_file()
    manifest = archive.verify(folder) if is_archive else None
    model_folder = folder / archive.MODEL if is_archive else folder
    device = device or CPU
    precision = precision_of(model_folder, config, device) if packed and is_archive else None
    if precision is None:
        require_torch("this model" if library() else "a model without compiled kernels (scripts/compile_kernels.py)")
    if (serving and is_archive) or not has_torch():
        import_transformers(with_models=precision is None)
    model_config = read_config(model_folder)
    model = ModelFolder.read(model_folder, model_config)
    tokenizer = Tokenizer(model_folder, model_config, config, model.embedding)
    operations = operations_for(model, config, tokenizer)
    main = operations["predict"]
    auto_class = auto_class_for(type(main), model_config)
    options: dict[str, Any] = {"pad_id": tokenizer.pad_id, "type_ids": tokenizer.has_type_ids}
    engine: Engine
    if precision is not None:
        engine = NativeEngine.load(model_folder, auto_class, main, config, precision, **options)
    else:
        engine = torch_engine_for(device).load(model_folder, auto_class, main, config, device, packed=packed, **options)
    if shared and is_archive:
        engine.share_weights(folder)
    engine.warm_up(tokenizer.max_length)
    model_hash = manifest.model_hash if manifest else ""
    model_id = ModelId(name, version)
    predictor = Predictor(operations, tokenizer, engine, model_id, model_hash, timeout_s, max_response_bytes)
    if is_archive:
        check_golden(predictor, archive.read_golden(folder, archive.golden_name(engine.precision.name)))
        if calibration := archive.read_calibration(folder, engine.precision.name):
            predictor.calibrate(calibration)
            check_golden(predictor, archive.read_golden(folder, archive.calibrated_golden_name(engine.precision.name)))
    if serving:
        return_free_memory()
    return predictor


def torch_engine_for(device: AnyDevice) -> type[TorchEngine]:
    """Return the engine of a kind of device."""
    if device.type == "cuda":
        from handler.engine.cuda import CudaEngine

        return CudaEngine
    from handler.engine.torch_engine import TorchEngine

    return TorchEngine


def return_free_memory() -> None:
    """Give to the system what loading needed for a moment; glibc keeps it otherwise, 10 to 20 MB of a small model.

    What stays is kept from later collections of garbage: one of the 210,000 objects of a worker, most of them of
    imported libraries, takes 90 ms, for which requests would wait.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
