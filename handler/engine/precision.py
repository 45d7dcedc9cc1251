"""Which precision a machine does well."""

from __future__ import annotations

from typing import NamedTuple

import torch

from handler import config
from handler.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision(NamedTuple):
    """A precision by name, and how far its answers may lie from those in fp32."""

    name: str
    dtype: torch.dtype
    tolerance: float  # on a score of a golden answer; the mean error is a tenth of it or less


TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}


def supported(device: torch.device) -> list[str]:
    """List the precisions that the device computes in hardware, best first."""
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["bf16", "fp16", "fp32"] if bf16 else ["fp16", "fp32"]
    # Without these instructions bf16 is emulated and many times slower than fp32.
    flags = torch.cpu.get_capabilities()
    instructions = any(flags.get(flag) for flag in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "arm_bf16"))
    return ["bf16", "fp32"] if instructions and torch.ops.mkldnn._is_mkldnn_bf16_supported() else ["fp32"]


def choose(requested: config.Precision, device: torch.device) -> Precision:
    """Return the precision to compute in.

    Raises:
        ConfigError: the device would only emulate what is asked for.
    """
    can = supported(device)
    name = can[0] if requested == "auto" else requested
    if name not in can:
        raise ConfigError(
            f"handler.precision is {name}, which this {device.type} has no instructions for; "
            f"accepted here: auto, {', '.join(can)}"
        )
    return Precision(name, DTYPES[name], TOLERANCES[name])
