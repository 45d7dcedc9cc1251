"""The product of a layer whose activation is GELU, in eight-bit floats, by cuBLASLt.

PyTorch's `torch._scaled_mm` does not pass on the epilogue that applies GELU behind the bias.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from ctypes import c_int, c_int8, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor

from handler.engine import cublaslt_api as api
from handler.engine.cublaslt_api import CublasContext, CublasError, HeuristicResult

E4M3 = torch.float8_e4m3fn
MAX_PLANS = 4096  # of each product
WIDTH_MULTIPLE = 16  # of both widths, so that every row begins at a multiple of 16 bytes
ALIGNMENTS = (256, 16)  # bytes: of memory that PyTorch allocates, and the least that eight-bit kernels accept


class _Plan:
    """Everything cuBLASLt needs for one number of rows.

    Matrices of cuBLASLt are column-major: (tokens, out) is D of `out` rows, the weight is A, transposed, and x is B.
    """

    def __init__(self, context: CublasContext) -> None:
        self._context = context
        self._descriptors = contextlib.ExitStack()
        weakref.finalize(self, self._descriptors.close).atexit = False
        self._pointers: dict[int, int] = {}
        self.operation = self.create("MatmulDesc", api.COMPUTE_32F, api.CUDA_R_32F)
        self.layouts: tuple[int | None, ...] = ()  # of A, B, C and D
        self._result = HeuristicResult()
        self.algorithm = ctypes.addressof(self._result)

    def create(self, kind: str, *arguments: int) -> int | None:
        """Create a descriptor that lives as long as the plan."""
        descriptor, shared = c_void_p(), self._context.shared
        status = getattr(shared, f"cublasLt{kind}Create")(ctypes.byref(descriptor), *arguments)
        self._context.check(status, f"create a {kind}")
        self._descriptors.callback(getattr(shared, f"cublasLt{kind}Destroy"), descriptor.value)
        return descriptor.value

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute of the operation to a value of ctypes."""
        self._set("MatmulDesc", self.operation, attribute, value)

    def point(self, attribute: int, pointer: int) -> None:
        """Set an attribute to a pointer unless it is that already."""
        if self._pointers.get(attribute) != pointer:
            self.set(attribute, c_void_p(pointer))
            self._pointers[attribute] = pointer

    def _set(self, kind: str, descriptor: int | None, attribute: int, value: Any) -> None:
        set_attribute, size = getattr(self._context.shared, f"cublasLt{kind}SetAttribute"), ctypes.sizeof(value)
        status = set_attribute(descriptor, attribute, ctypes.byref(value), size)
        self._context.check(status, f"set attribute {attribute} of a {kind}")

    def find_algorithm(self, alignments: tuple[int, int], problem: str) -> None:
        """Ask the heuristic for the fastest algorithm, given how A and B are aligned.

        The best of eight that were measured was 0 to 9 % faster (an H200), which is not worth a measurement.
        """
        preference = self.create("MatmulPreference")
        for attribute, value in (
            (api.MAX_WORKSPACE, c_uint64(api.WORKSPACE_BYTES)),
            *zip((api.MIN_ALIGNMENT_A, api.MIN_ALIGNMENT_B), map(c_uint32, alignments), strict=True),
        ):
            self._set("MatmulPreference", preference, attribute, value)
        count = c_int()
        status = self._context.shared.cublasLtMatmulAlgoGetHeuristic(
            *(self._context.handle, self.operation, *self.layouts, preference),
            *(1, ctypes.byref(self._result), ctypes.byref(count)),
        )
        self._context.check(status or self._result.state, f"find an algorithm for {problem}")
        if count.value < 1:
            raise CublasError(f"cuBLASLt has no algorithm for {problem}")


class GeluProduct:
    """gelu(x W^T + b) in eight-bit floats for any number of rows, where GELU is its tanh form.

    Keeps the weight, its scale and the bias; their memory must not move. The number of rows decides which algorithm is
    used, so the first call with a number of rows takes longer. See `CublasContext` for CUDA graphs.
    """

    def __init__(self, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> None:
        """Check the weight; raises ValueError, and CublasError where there is no cuBLASLt.

        Args:
            weight: (out, in) in E4M3, contiguous, on a GPU.
            weight_scale: one number in fp32.
            bias: (out,) in bf16.
        """
        if weight.dim() != 2 or any(width < 1 or width % WIDTH_MULTIPLE for width in weight.shape):
            raise ValueError(f"weight must be (out, in), both multiples of {WIDTH_MULTIPLE}; it is {_describe(weight)}")
        self._context = api.context_of(weight.device)
        self.device, (self.out_width, self.in_width) = weight.device, weight.shape
        self._require("weight", weight, E4M3, weight.numel())
        self._require("weight_scale", weight_scale, torch.float32, 1)
        self._require("bias", bias, torch.bfloat16, self.out_width)
        self._weight, self._weight_scale, self._bias = weight, weight_scale, bias
        self._weight_pointer = weight.data_ptr()
        self._weight_alignment = _alignment("weight", self._weight_pointer)
        _alignment("bias", bias.data_ptr())
        self._one = torch.ones((), device=weight.device)
        self._plans: dict[tuple[int, int], _Plan] = {}  # by rows and alignment, the least recently used first

    def __call__(self, x: Tensor, x_scale: Tensor, out_scale: Tensor) -> Tensor:
        """Multiply, on the current stream: (tokens, in) -> (tokens, out); raises ValueError and CublasError.

        Args:
            x: (tokens, in) in E4M3, contiguous.
            x_scale: one number in fp32.
            out_scale: one number in fp32, by which the output is multiplied before it is rounded.
        """
        if x.dim() != 2 or x.shape[1] != self.in_width:
            raise ValueError(f"x must be (tokens, {self.in_width}); it is {_describe(x)}")
        n_rows = x.shape[0]
        self._require("x", x, E4M3, n_rows * self.in_width)
        self._require("x_scale", x_scale, torch.float32, 1)
        self._require("out_scale", out_scale, torch.float32, 1)
        y = torch.empty((n_rows, self.out_width), dtype=E4M3, device=self.device)
        if not n_rows:
            return y
        x_pointer, context = x.data_ptr(), self._context
        with context.lock, context.guard():
            plan = self._plan(n_rows, _alignment("x", x_pointer))
            plan.point(api.B_SCALE_POINTER, x_scale.data_ptr())
            plan.point(api.D_SCALE_POINTER, out_scale.data_ptr())
            a, b, c, d = plan.layouts
            stream = context.stream()
            status = context.shared.cublasLtMatmul(
                *(context.handle, plan.operation),
                *(ctypes.addressof(api.ALPHA), self._weight_pointer, a, x_pointer, b),
                # C is not read, as beta is 0; Transformer Engine passes NULL where D has eight bits, too
                *(ctypes.addressof(api.BETA), 0, c, y.data_ptr(), d),
                *(plan.algorithm, context.workspace(stream), api.WORKSPACE_BYTES, stream),
            )
            if status != api.SUCCESS:
                context.check(status, f"multiply {self._problem(n_rows)}")
        return y

    def _plan(self, n_rows: int, alignment: int) -> _Plan:
        """Return the plan for a number of rows of x that is aligned to `alignment` bytes; the lock is held."""
        plan = self._plans.pop((n_rows, alignment), None) or self._new_plan(n_rows, alignment)
        self._plans[n_rows, alignment] = plan
        if len(self._plans) > MAX_PLANS:
            del self._plans[next(iter(self._plans))]
        return plan

    def _new_plan(self, n_rows: int, alignment: int) -> _Plan:
        plan = _Plan(self._context)
        plan.set(api.TRANSA, c_int32(api.OP_T))
        plan.set(api.TRANSB, c_int32(api.OP_N))
        plan.set(api.EPILOGUE, c_uint32(api.EPILOGUE_GELU_BIAS))
        plan.set(api.BIAS_DATA_TYPE, c_int32(api.CUDA_R_16BF))
        plan.set(api.FAST_ACCUM, c_int8(1))
        plan.point(api.BIAS_POINTER, self._bias.data_ptr())
        plan.point(api.A_SCALE_POINTER, self._weight_scale.data_ptr())
        # The heuristic wants pointers; a call sets its own
        for attribute in (api.B_SCALE_POINTER, api.D_SCALE_POINTER):
            plan.point(attribute, self._one.data_ptr())
        wide, narrow = self.in_width, self.out_width
        plan.layouts = (
            plan.create("MatrixLayout", api.CUDA_R_8F_E4M3, wide, narrow, wide),
            plan.create("MatrixLayout", api.CUDA_R_8F_E4M3, wide, n_rows, wide),
            plan.create("MatrixLayout", api.CUDA_R_16BF, narrow, n_rows, narrow),  # the type of the bias
            plan.create("MatrixLayout", api.CUDA_R_8F_E4M3, narrow, n_rows, narrow),
        )
        plan.find_algorithm((self._weight_alignment, alignment), self._problem(n_rows))
        return plan

    def _problem(self, n_rows: int) -> str:
        """Describe a product for an error."""
        return f"{n_rows} rows and a weight ({self.out_width}, {self.in_width}) in E4M3 with bias and GELU, to E4M3"

    def _require(self, name: str, tensor: Tensor, dtype: torch.dtype, size: int) -> None:
        """Raise ValueError unless a tensor is of this dtype and number of elements, contiguous, beside the weight."""
        if (
            tensor.dtype is not dtype
            or tensor.numel() != size
            or tensor.device != self.device
            or not tensor.is_contiguous()
        ):
            wanted = f"contiguous {dtype} of {size} elements on {self.device}"
            raise ValueError(f"{name} must be {wanted}; it is {_describe(tensor)}")


def _alignment(name: str, pointer: int) -> int:
    """Return the largest of ALIGNMENTS that divides an address; raises ValueError."""
    for alignment in ALIGNMENTS:
        if pointer % alignment == 0:
            return alignment
    raise ValueError(f"the memory of {name} must begin at a multiple of {ALIGNMENTS[-1]} bytes; pass a clone of it")


def _describe(tensor: Tensor) -> str:
    """Describe a tensor for an error."""
    contiguous = "" if tensor.is_contiguous() else ", not contiguous"
    return f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}{contiguous}"
