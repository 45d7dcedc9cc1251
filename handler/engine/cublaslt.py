"""Products in eight-bit floats by cuBLASLt.

PyTorch's `torch._scaled_mm` passes on neither the epilogue that applies GELU behind the bias, nor a choice among the
algorithms that cuBLASLt names.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Callable
from ctypes import c_int, c_int8, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor

from handler.engine import cublaslt_api as api
from handler.engine.cublaslt_api import CublasContext, CublasError, HeuristicResult

E4M3 = api.E4M3
MAX_PLANS = 4096  # of each product
MAX_ALGORITHMS = 8
WIDTH_MULTIPLE = 16  # of both widths, so that every row begins at a multiple of 16 bytes
ALIGNMENTS = (256, 16)  # bytes: of memory that PyTorch allocates, and the least that eight-bit kernels accept


class _Plan:
    """Everything cuBLASLt needs for one number of rows.

    Matrices of cuBLASLt are column-major: (tokens, out) is D of `out` rows, the weight is A, transposed, and x is B.
    """

    def __init__(self, context: CublasContext) -> None:
        self._context, self._shared = context, context.shared
        self._created: list[tuple[Callable[[int | None], int], int | None]] = []
        weakref.finalize(self, _destroy, self._created).atexit = False
        self._pointers: dict[int, int] = {}
        self.operation = self.create("MatmulDesc", api.COMPUTE_32F, api.CUDA_R_32F)
        self.layouts: tuple[int | None, ...] = ()  # of A, B, C and D
        self.results: list[HeuristicResult] = []
        self.algorithms: list[int] = []  # addresses

    def create(self, kind: str, *arguments: int) -> int | None:
        """Create a descriptor that lives as long as the plan."""
        descriptor = c_void_p()
        status = getattr(self._shared, f"cublasLt{kind}Create")(ctypes.byref(descriptor), *arguments)
        self._context.check(status, f"create a {kind}")
        self._created.append((getattr(self._shared, f"cublasLt{kind}Destroy"), descriptor.value))
        return descriptor.value

    def set(self, attribute: int, value: Any) -> None:
        """Set an attribute of the operation to a value of ctypes."""
        size = ctypes.sizeof(value)
        status = self._shared.cublasLtMatmulDescSetAttribute(self.operation, attribute, ctypes.byref(value), size)
        self._context.check(status, f"set attribute {attribute} of a product")

    def point(self, attribute: int, pointer: int) -> None:
        """Set an attribute to a pointer unless it is that already."""
        if self._pointers.get(attribute) != pointer:
            self.set(attribute, c_void_p(pointer))
            self._pointers[attribute] = pointer

    def find_algorithms(self, alignments: tuple[int, int], problem: str) -> None:
        """Ask the heuristic for algorithms, fastest first, given how A and B are aligned."""
        preference = self.create("MatmulPreference")
        for attribute, value in (
            (api.MAX_WORKSPACE, c_uint64(api.WORKSPACE_BYTES)),
            *zip((api.MIN_ALIGNMENT_A, api.MIN_ALIGNMENT_B), map(c_uint32, alignments), strict=True),
        ):
            size = ctypes.sizeof(value)
            status = self._shared.cublasLtMatmulPreferenceSetAttribute(preference, attribute, ctypes.byref(value), size)
            self._context.check(status, f"set preference {attribute}")
        results, count = (HeuristicResult * MAX_ALGORITHMS)(), c_int()
        status = self._shared.cublasLtMatmulAlgoGetHeuristic(
            *(self._context.handle, self.operation, *self.layouts, preference),
            *(MAX_ALGORITHMS, ctypes.byref(results), ctypes.byref(count)),
        )
        self.results = [result for result in results[: count.value] if result.state == api.SUCCESS]
        if status != api.SUCCESS or not self.results:
            raise CublasError(f"cuBLASLt has no algorithm for {problem}: {self._context.status_name(status)}")
        self.algorithms = [ctypes.addressof(result) for result in self.results]


def _destroy(created: list[tuple[Callable[[int | None], int], int | None]]) -> None:
    """Destroy descriptors, last created first."""
    for destroy, descriptor in reversed(created):
        destroy(descriptor)


class Fp8Product:
    """x W^T + b in eight-bit floats for any number of rows, optionally with GELU (its tanh form) within the product.

    Keeps the weight, its scale and the bias; their memory must not move. The number of rows decides which algorithms
    there are, so the first call with a number of rows takes longer. See `CublasContext` for CUDA graphs.
    """

    def __init__(
        self,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor,
        *,
        out_dtype: torch.dtype,
        gelu: bool = False,
        row_scales: bool = False,
    ) -> None:
        """Check the weight; raises ValueError, and CublasError where there is no cuBLASLt.

        Args:
            weight: (out, in) in E4M3, contiguous, on a GPU.
            weight_scale: one number in fp32; with `row_scales` (out,) or (out, 1).
            bias: (out,) in bf16.
            out_dtype: bfloat16, or float8_e4m3fn, which cuBLASLt does not have with `row_scales`.
            gelu: whether GELU is applied behind the bias.
            row_scales: whether each row of x and each row of the weight has a scale; otherwise all have one.
        """
        if out_dtype not in api.DATA_TYPES:
            raise ValueError(f"out_dtype must be bfloat16 or float8_e4m3fn, not {out_dtype}")
        if weight.dim() != 2 or any(width < 1 or width % WIDTH_MULTIPLE for width in weight.shape):
            raise ValueError(f"weight must be (out, in), both multiples of {WIDTH_MULTIPLE}; it is {_describe(weight)}")
        self._context = api.context_of(weight.device)
        self.device, (self.out_width, self.in_width) = weight.device, weight.shape
        self.out_dtype, self.gelu, self.row_scales = out_dtype, gelu, row_scales
        self._require("weight", weight, E4M3, weight.numel())
        self._require("weight_scale", weight_scale, torch.float32, self.out_width if row_scales else 1)
        self._require("bias", bias, torch.bfloat16, self.out_width)
        self._weight, self._weight_scale, self._bias = weight, weight_scale, bias
        self._weight_pointer = weight.data_ptr()
        self._weight_alignment = _alignment("weight", self._weight_pointer)
        _alignment("bias", bias.data_ptr())
        if row_scales:
            _alignment("weight_scale", weight_scale.data_ptr())
        self._one = torch.ones((), device=weight.device)
        self._plans: OrderedDict[tuple[int, int], _Plan] = OrderedDict()

    def __call__(self, x: Tensor, x_scale: Tensor, out_scale: Tensor | None = None, algorithm: int = 0) -> Tensor:
        """Multiply, on the current stream: (tokens, in) -> (tokens, out); raises ValueError and CublasError.

        Args:
            x: (tokens, in) in E4M3, contiguous.
            x_scale: one number in fp32; with `row_scales` (tokens,) or (tokens, 1).
            out_scale: one number in fp32, by which an eight-bit output is multiplied before it is rounded; default 1.
            algorithm: index among `algorithms`; 0 is the one that the heuristic calls fastest.
        """
        if x.dim() != 2 or x.shape[1] != self.in_width:
            raise ValueError(f"x must be (tokens, {self.in_width}); it is {_describe(x)}")
        n_rows = x.shape[0]
        self._require("x", x, E4M3, n_rows * self.in_width)
        self._require("x_scale", x_scale, torch.float32, n_rows if self.row_scales else 1)
        if self.row_scales:
            _alignment("x_scale", x_scale.data_ptr())
        if out_scale is None:
            out_scale = self._one
        elif self.out_dtype is not E4M3:
            raise ValueError("out_scale is for an output in float8_e4m3fn; leave it out")
        else:
            self._require("out_scale", out_scale, torch.float32, 1)
        y = torch.empty((n_rows, self.out_width), dtype=self.out_dtype, device=self.device)
        if not n_rows:
            return y
        x_pointer, y_pointer, context = x.data_ptr(), y.data_ptr(), self._context
        with context.lock, context.guard():
            plan = self._plan(n_rows, _alignment("x", x_pointer))
            if not 0 <= algorithm < len(plan.algorithms):
                raise ValueError(f"algorithm must be from 0 to {len(plan.algorithms) - 1}, not {algorithm}")
            plan.point(api.B_SCALE_POINTER, x_scale.data_ptr())
            if self.out_dtype is E4M3:
                plan.point(api.D_SCALE_POINTER, out_scale.data_ptr())
            a, b, c, d = plan.layouts
            # C is not read, as beta is 0. Where C is D, cuBLASLt wants one layout for both; an eight-bit D has another
            # type than C, and Transformer Engine passes NULL there, too.
            c_pointer = 0 if self.out_dtype is E4M3 else y_pointer
            stream = context.stream()
            status = context.shared.cublasLtMatmul(
                *(context.handle, plan.operation),
                *(ctypes.addressof(api.ALPHA), self._weight_pointer, a, x_pointer, b),
                *(ctypes.addressof(api.BETA), c_pointer, c, y_pointer, d),
                *(plan.algorithms[algorithm], context.workspace(stream), api.WORKSPACE_BYTES, stream),
            )
            if status != api.SUCCESS:
                context.check(status, f"multiply {self._problem(n_rows)} by algorithm {algorithm}")
        return y

    def algorithms(self, n_rows: int) -> int:
        """Return how many algorithms, at most `MAX_ALGORITHMS`, the heuristic names for a number of rows."""
        if n_rows < 1:
            raise ValueError(f"n_rows must be at least 1, not {n_rows}")
        with self._context.lock, self._context.guard():
            return len(self._plan(n_rows, ALIGNMENTS[0]).algorithms)

    def _plan(self, n_rows: int, alignment: int) -> _Plan:
        """Return the plan for a number of rows of x that is aligned to `alignment` bytes; the lock is held."""
        plan = self._plans.get((n_rows, alignment))
        if plan is None:
            plan = self._plans[n_rows, alignment] = self._new_plan(n_rows, alignment)
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end((n_rows, alignment))
        return plan

    def _new_plan(self, n_rows: int, alignment: int) -> _Plan:
        plan = _Plan(self._context)
        plan.set(api.TRANSA, c_int32(api.OP_T))
        plan.set(api.TRANSB, c_int32(api.OP_N))
        plan.set(api.EPILOGUE, c_uint32(api.EPILOGUE_GELU_BIAS if self.gelu else api.EPILOGUE_BIAS))
        plan.set(api.BIAS_DATA_TYPE, c_int32(api.CUDA_R_16BF))
        plan.set(api.FAST_ACCUM, c_int8(1))
        if self.row_scales:
            plan.set(api.A_SCALE_MODE, c_int32(api.SCALE_OUTER_VEC_32F))
            plan.set(api.B_SCALE_MODE, c_int32(api.SCALE_OUTER_VEC_32F))
        plan.point(api.BIAS_POINTER, self._bias.data_ptr())
        plan.point(api.A_SCALE_POINTER, self._weight_scale.data_ptr())
        plan.point(api.B_SCALE_POINTER, self._one.data_ptr())  # the heuristic wants a pointer, a call sets its own
        if self.out_dtype is E4M3:
            plan.point(api.D_SCALE_POINTER, self._one.data_ptr())
        wide, narrow = self.in_width, self.out_width
        plan.layouts = (
            plan.create("MatrixLayout", api.CUDA_R_8F_E4M3, wide, narrow, wide),
            plan.create("MatrixLayout", api.CUDA_R_8F_E4M3, wide, n_rows, wide),
            plan.create(
                "MatrixLayout", api.CUDA_R_16BF, narrow, n_rows, narrow
            ),  # whatever the output, with a bf16 bias
            plan.create("MatrixLayout", api.DATA_TYPES[self.out_dtype], narrow, n_rows, narrow),
        )
        plan.find_algorithms((self._weight_alignment, alignment), self._problem(n_rows))
        return plan

    def _problem(self, n_rows: int) -> str:
        """Describe a product for an error."""
        options = "a scale for each row" if self.row_scales else "one scale"
        function = "bias and GELU" if self.gelu else "bias"
        weight = f"a weight ({self.out_width}, {self.in_width})"
        return f"{n_rows} rows and {weight} in E4M3 with {options}, {function}, to {self.out_dtype}"

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
