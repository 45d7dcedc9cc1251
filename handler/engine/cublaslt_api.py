"""cuBLASLt by ctypes: the library that PyTorch has loaded, so a server needs no compiler.

Constants and structures are those of cublasLt.h, cublas_api.h and library_types.h of cuBLAS 13.1.0.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import threading
from ctypes import c_char_p, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WORKSPACE_BYTES = 32 << 20  # what NVIDIA advises for Hopper

SUCCESS = 0  # cublasStatus_t
CUDA_R_32F, CUDA_R_16BF, CUDA_R_8F_E4M3 = 0, 14, 28  # cudaDataType_t
COMPUTE_32F = 68  # cublasComputeType_t
OP_N, OP_T = 0, 1  # cublasOperation_t
EPILOGUE_GELU_BIAS = 36  # cublasLtEpilogue_t
# cublasLtMatmulDescAttributes_t
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8
A_SCALE_POINTER, B_SCALE_POINTER, D_SCALE_POINTER = 17, 18, 20
FAST_ACCUM, BIAS_DATA_TYPE = 25, 26
# cublasLtMatmulPreferenceAttributes_t
MAX_WORKSPACE, MIN_ALIGNMENT_A, MIN_ALIGNMENT_B = 1, 5, 6

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (c_void_p,),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    # handle, operation, layouts of A, B, C and D, preference, results wanted, results, number of results
    "cublasLtMatmulAlgoGetHeuristic": (*(c_void_p,) * 7, c_int, c_void_p, c_void_p),
    # handle, operation, alpha, A and layout, B and layout, beta, C and layout, D and layout, algorithm, workspace and
    # size, stream
    "cublasLtMatmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}
ALPHA, BETA = c_float(1), c_float(0)  # on the host, as the default pointer mode wants them


class CublasError(RuntimeError):
    """cuBLASLt is missing or refuses a call."""


class HeuristicResult(ctypes.Structure):
    """An algorithm, as cublasLtMatmulHeuristicResult_t; `cublasLtMatmulAlgo_t` is its first field."""

    _fields_ = (
        *(("algorithm", c_uint64 * 8), ("workspace_bytes", c_size_t)),
        *(("state", c_int), ("waves", c_float), ("reserved", c_int * 4)),
    )


@functools.cache
def library() -> Any:
    """Return the cuBLASLt that PyTorch has loaded, or the one of NVIDIA's wheel; raises CublasError."""
    if torch.version.cuda is None:
        raise CublasError("there is no cuBLASLt: this PyTorch is built without CUDA")
    name = f"libcublasLt.so.{torch.version.cuda.split('.')[0]}"
    spec = importlib.util.find_spec("nvidia")  # a namespace package: cu13/lib, or cublas/lib before CUDA 13
    folders = (spec.submodule_search_locations if spec else None) or ()
    wheels = (str(path) for folder in folders for path in sorted(Path(folder).glob(f"*/lib/{name}")))
    for path in (name, *wheels):
        with contextlib.suppress(OSError):
            return declared(ctypes.CDLL(path))
    raise CublasError(f"there is no {name}: install PyTorch with the libraries of CUDA")


def declared(shared: Any) -> Any:
    """Declare the types of the functions that this module calls."""
    for name, types in SIGNATURES.items():
        function = getattr(shared, name)
        function.argtypes, function.restype = types, c_int
    shared.cublasLtGetStatusName.argtypes, shared.cublasLtGetStatusName.restype = (c_int,), c_char_p
    return shared


class CublasContext:
    """The handle of one GPU, and a workspace for each of its streams.

    What one stream runs has a workspace to itself. It is allocated by the first product on that stream, so call every
    product once on a stream before recording a CUDA graph there. Graphs recorded on one stream share its workspace:
    replay one at a time.
    """

    def __init__(self, shared: Any, device: torch.device) -> None:
        self.shared, self.device = shared, device
        self.lock = threading.Lock()  # descriptors hold the pointers of a call until it is launched
        self._workspaces: dict[int, Tensor] = {}
        handle = c_void_p()
        with self.guard():
            self.check(shared.cublasLtCreate(ctypes.byref(handle)), "create a handle")
        self.handle = handle.value

    def check(self, status: int, action: str) -> None:
        """Raise CublasError with the name of a status that is no success."""
        if status != SUCCESS:
            raise CublasError(f"cuBLASLt cannot {action}: {self.shared.cublasLtGetStatusName(status).decode()}")

    def guard(self) -> contextlib.AbstractContextManager[Any]:
        """Make the GPU the current one of this thread, which cuBLASLt computes on."""
        if torch.cuda.current_device() == self.device.index:
            return contextlib.nullcontext()
        return torch.cuda.device(self.device)

    def stream(self) -> int:
        """Return the current stream of the GPU."""
        stream: int = torch.cuda.current_stream(self.device).cuda_stream
        return stream

    def workspace(self, stream: int) -> int:
        """Return the address of the workspace of a stream, which must be the current one."""
        if stream not in self._workspaces:
            self._workspaces[stream] = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self.device)
        return self._workspaces[stream].data_ptr()


@functools.cache
def context_of(device: torch.device) -> CublasContext:
    """Return the context of a GPU; raises ValueError for another device, and CublasError."""
    if device.type != "cuda":
        raise ValueError(f"the weight must be on a GPU; it is on {device}")
    return CublasContext(library(), device)
