"""Load a model of transformers from a model folder: safetensors only, all weights present, nothing from a hub."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn

from handler.config import ServingConfig
from handler.engine import checkpoint, fused_model, int8_file, int8_weights
from handler.engine.config_problems import read_config, unknown_value
from handler.engine.device import AnyDevice
from handler.engine.fused_model import FusedModel
from handler.engine.precision import INT8, choose, supported
from handler.errors import ModelMismatch
from handler.tasks import Pooler

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# transformers changes its own classes while it loads a model and then changes them back to what it found: of two loads
# at once one finds the classes of the other, and no weights are tied in this process any more.
_one_at_a_time = threading.Lock()


def load_weights(
    folder: Path,
    auto_class: str,
    main: Pooler,
    config: ServingConfig,
    device: AnyDevice | None,
    *,
    fused: bool = False,
) -> PreTrainedModel | FusedModel:
    """Load a model with a class of transformers, its weights in fp32.

    Weights in int8 have a file of their own, which is read where the precision asks for it.

    Args:
        fused: whether to load a `FusedModel`, of a folder that `weight_names` supports.

    Raises:
        ModelMismatch: no weights, or weights that are not all of this architecture.
        ConfigError: a precision that the device does not have.
    """
    int8_path, cpu = folder / int8_weights.FILE, torch.device("cpu")
    available = {"has_float_weights": int8_weights.has_float_weights(folder), "has_int8_weights": int8_path.is_file()}
    is_int8 = choose(config.precision, device or cpu, **available) is INT8
    dtype = torch.bfloat16 if supported(cpu)[0] == "bf16" else torch.float32
    if fused:
        return fused_model.load(folder, auto_class, read_config(folder))
    import transformers
    from transformers.utils import logging as transformers_logging

    if is_int8:
        make = getattr(transformers, auto_class).from_config
        with _one_at_a_time:
            return int8_file.read(int8_path, make, read_config(folder), dtype)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a worker's standard error is a log
    # A filter and no level: with one above its default transformers 5.20 warns of layers that are "not sharded".
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_report)
    model_config = read_config(folder)
    model: PreTrainedModel
    try:
        with _one_at_a_time:
            model, report = getattr(transformers, auto_class).from_pretrained(
                folder,
                config=model_config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except KeyError as error:
        raise ModelMismatch(unknown_value(model_config, error)) from error
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelMismatch(f"the weights cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    checkpoint.require_complete(model, report, needs_pooler=main.forward_scope == "head")
    refuse_not_finite(model)
    return model


def _is_no_report(record: logging.LogRecord) -> bool:
    """Return whether a message is another one than the report of tensors, which `checkpoint` judges."""
    return "LOAD REPORT" not in record.getMessage()


def refuse_not_finite(model: nn.Module) -> None:
    """Raise ModelMismatch if a weight is NaN or infinite: every answer would be NaN."""
    # A sum takes a quarter of the time of `isfinite`, and is finite only if every weight is.
    suspects = [(name, weight) for name, weight in model.named_parameters() if not bool(weight.sum().isfinite())]
    names = [name for name, weight in suspects if not bool(weight.isfinite().all())]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ModelMismatch(
            f"the weights hold NaN or infinity in {', '.join(names[:3])}{more}: the training diverged; "
            "train again, e.g. with a lower learning rate"
        )
