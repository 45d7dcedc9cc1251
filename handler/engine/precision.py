"""Which precisions a device computes in hardware, and which of them a worker uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from handler import config
from handler.engine import cpu, int8_weights
from handler.engine.device import AnyDevice
from handler.engine.kernels import library
from handler.errors import ConfigError
from handler.torch_presence import has_torch

if TYPE_CHECKING:
    import torch


class Precision(NamedTuple):
    """A precision by name, and how far its answers may differ from those in fp32."""

    name: str
    tolerance: float  # on a score of a golden answer
    has_gradients: bool = True
    mean_tolerance: float | None = None  # on the mean over the golden answers of their largest errors; None: no limit

    @property
    def dtype(self) -> torch.dtype:
        """What PyTorch calls the numbers of the layers: of int8 those between them, of fp8 the weights before."""
        import torch

        dtypes = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp16": torch.float16}
        return dtypes.get(self.name, torch.float32)


TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
# Against answers in the same precision, which golden-int8.json and golden-fp8.json hold.
INT8 = Precision("int8", 5e-2, has_gradients=False)
# Two right computations in fp8 that sum in another order move 2 to 4 % of texts by more than 0.05, and one by 0.26 (a
# sentiment model, 871 texts, 2026-11-27); golden-fp8.json comes from a CPU.
FP8 = Precision("fp8", 0.3, has_gradients=False, mean_tolerance=0.08)


def supported(device: AnyDevice) -> list[str]:
    """List the precisions that the device computes in hardware, best first; int8 and fp8 are chosen by other rules."""
    if device.type == "cuda":
        import torch

        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["bf16", "fp16", "fp32"] if bf16 else ["fp16", "fp32"]
    return ["bf16", "fp32"] if _has_bf16() else ["fp32"]


def _has_bf16() -> bool:
    """Tell whether this processor has instructions for bf16: it is emulated otherwise, many times slower than fp32."""
    if functions := library():
        return "avx512bf16" in functions.level
    if not has_torch() or not any(map(cpu.has, ("avx512_bf16", "amx_bf16", "bf16"))):
        return False
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose(
    requested: config.Precision, device: AnyDevice, *, has_float_weights: bool = True, has_int8_weights: bool = False
) -> Precision:
    """Return the precision to compute in.

    Args:
        has_float_weights: whether there are weights in a floating-point precision.
        has_int8_weights: whether there are weights in int8.

    Raises:
        ConfigError: the device would only emulate the requested precision, or there are no weights for it.
    """
    has_int8 = has_int8_weights and int8_weights.supported(device)
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
    if requested == "fp8" and _has_fp8(device):
        return FP8
    name = available[0] if requested == "auto" else requested
    if name not in available:
        raise ConfigError(
            f"handler.precision is {name}, which this {device.type} has no instructions for; "
            f"accepted here: auto, {', '.join(available)}"
        )
    return Precision(name, TOLERANCES[name])


def _has_fp8(device: AnyDevice) -> bool:
    if not has_torch():
        return False
    from handler.engine import fp8

    return fp8.supported(device)
