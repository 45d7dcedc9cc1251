"""Which precisions a device computes in hardware, and which of them a worker uses."""

from __future__ import annotations

from typing import NamedTuple

import torch

from handler import config
from handler.engine import fp8, int8
from handler.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(NamedTuple):
    """A precision by name, and how far its answers may differ from those in fp32."""

    name: str
    dtype: torch.dtype
    tolerance: float  # on a score of a golden answer
    has_gradients: bool = True
    mean_tolerance: float | None = None  # on the mean over the golden answers of their largest errors; None: no limit


TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
# Against answers in the same precision, which golden-int8.json and golden-fp8.json hold.
INT8 = Precision("int8", torch.float32, 5e-2, has_gradients=False)
# Two right computations in fp8 that sum in another order move 2 to 4 % of texts by more than 0.05, and one by 0.26 (a
# sentiment model, 871 texts, 2026-11-27); golden-fp8.json comes from a CPU.
FP8 = Precision("fp8", torch.bfloat16, 0.3, has_gradients=False, mean_tolerance=0.08)


def supported(device: torch.device) -> list[str]:
    """List the precisions that the device computes in hardware, best first; int8 and fp8 are chosen by other rules."""
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["bf16", "fp16", "fp32"] if bf16 else ["fp16", "fp32"]
    # Without these instructions bf16 is emulated and many times slower than fp32.
    flags = torch.cpu.get_capabilities()
    instructions = any(flags.get(flag) for flag in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "arm_bf16"))
    return ["bf16", "fp32"] if instructions and torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["fp32"]


def choose(
    requested: config.Precision, device: torch.device, *, has_float_weights: bool = True, has_int8_weights: bool = False
) -> Precision:
    """Return the precision to compute in.

    Args:
        has_float_weights: whether there are weights in a floating-point precision.
        has_int8_weights: whether there are weights in int8.

    Raises:
        ConfigError: the device would only emulate the requested precision, or there are no weights for it.
    """
    has_int8 = has_int8_weights and int8.supported(device)
    available = [*(["int8"] if has_int8 else []), *(supported(device) if has_float_weights else [])]
    if requested == "int8" and not has_int8_weights:
        raise ConfigError("handler.precision is int8, but there are no weights in int8: pack with --calibration")
    if not available or (not has_float_weights and requested not in ("auto", "int8")):
        raise ConfigError(
            f"handler.precision is {requested}, but the archive has weights for int8 alone"
            + ("" if available else f", which this {device.type} has no instructions for")
        )
    if available[0] == "int8" and requested in ("auto", "int8"):
        return INT8
    if requested == "fp8" and fp8.supported(device):
        return FP8
    name = available[0] if requested == "auto" else requested
    if name not in available:
        raise ConfigError(
            f"handler.precision is {name}, which this {device.type} has no instructions for; "
            f"accepted here: auto, {', '.join(available)}"
        )
    return Precision(name, DTYPES[name], TOLERANCES[name])
