"""cuBLASLt without a GPU: the constants of its header, the calls in their order with every value, and clear errors."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import Any

import pytest
import torch

from handler.engine import cublaslt, cublaslt_api
from handler.engine.cublaslt import E4M3, GeluProduct
from handler.engine.cublaslt_api import CublasContext, CublasError, HeuristicResult

CPU = torch.device("cpu")
STREAM = 77
NAMES = {1: b"CUBLAS_STATUS_NOT_INITIALIZED", 7: b"CUBLAS_STATUS_INVALID_VALUE", 15: b"CUBLAS_STATUS_NOT_SUPPORTED"}
# Bytes that the library of cuBLAS 13.1.0 accepts, by attribute
ATTRIBUTE_BYTES = {3: 4, 4: 4, 7: 4, 8: 8, 17: 8, 18: 8, 20: 8, 25: 1, 26: 4}
PREFERENCE_BYTES = {1: 8, 5: 4, 6: 4}


class FakeCublasLt:
    """Records descriptors and products; refuses arguments of other types and sizes than the library's."""

    def __init__(self) -> None:
        self.alive: dict[int, tuple[Any, ...]] = {}
        self.attributes: dict[int, dict[int, int]] = {}
        self.sets: list[tuple[int, int]] = []
        self.products: list[dict[str, Any]] = []
        self.heuristics = 0
        self.state, self.count = 0, 1  # what the heuristic says of its algorithm
        self.status = self.heuristic_status = 0
        self._next = 1000

    def __getattr__(self, name: str) -> Any:
        types, function = cublaslt_api.SIGNATURES[name], getattr(type(self), f"fake_{name[len('cublasLt') :]}")

        def call(*arguments: Any) -> int:
            assert len(arguments) == len(types), name
            for value, kind in zip(arguments, types, strict=True):
                kind.from_param(value) if kind is ctypes.c_void_p else kind(value)
            result: int = function(self, *arguments)
            return result

        return call

    def cublasLtGetStatusName(self, status: int) -> bytes:  # noqa: N802
        return NAMES[status]

    def _create(self, target: Any, *description: Any) -> int:
        self._next += 1
        target._obj.value = self._next
        self.alive[self._next] = description
        self.attributes[self._next] = {}
        return 0

    def fake_Create(self, target: Any) -> int:  # noqa: N802
        return self._create(target, "handle")

    def fake_MatmulDescCreate(self, target: Any, compute: int, scale: int) -> int:  # noqa: N802
        return self._create(target, "operation", compute, scale)

    def fake_MatrixLayoutCreate(self, target: Any, *layout: int) -> int:  # noqa: N802
        return self._create(target, "layout", *layout)

    def fake_MatmulPreferenceCreate(self, target: Any) -> int:  # noqa: N802
        return self._create(target, "preference")

    def _destroy(self, descriptor: int) -> int:
        del self.alive[descriptor]
        return 0

    fake_MatmulDescDestroy = fake_MatrixLayoutDestroy = fake_MatmulPreferenceDestroy = _destroy  # noqa: N815

    def fake_MatmulDescSetAttribute(self, operation: int, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        assert self.alive[operation] == ("operation", 68, 0)
        assert size == ctypes.sizeof(value._obj) == ATTRIBUTE_BYTES[attribute]
        self.attributes[operation][attribute] = value._obj.value
        self.sets.append((operation, attribute))
        return 0

    def fake_MatmulPreferenceSetAttribute(self, preference: int, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        assert self.alive[preference] == ("preference",)
        assert size == ctypes.sizeof(value._obj) == PREFERENCE_BYTES[attribute]
        self.attributes[preference][attribute] = value._obj.value
        return 0

    def fake_MatmulAlgoGetHeuristic(self, handle: int, *arguments: Any) -> int:  # noqa: N802
        operation, a, b, c, d, preference, wanted, results, count = arguments
        assert self.alive[handle] == ("handle",)
        assert wanted == 1
        assert ctypes.sizeof(results._obj) == ctypes.sizeof(HeuristicResult)
        self.heuristics += 1
        self.seen = dict(self.attributes[operation]), [self.alive[x] for x in (a, b, c, d)], self.attributes[preference]
        results._obj.state = self.state
        results._obj.algorithm[0] = 100
        count._obj.value = self.count
        return self.heuristic_status

    def fake_Matmul(self, handle: int, operation: int, *arguments: Any) -> int:  # noqa: N802
        alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, *rest = arguments
        assert self.alive[handle] == ("handle",)
        assert ctypes.c_float.from_address(alpha).value == 1
        assert ctypes.c_float.from_address(beta).value == 0
        layouts = [self.alive[x] for x in (a_layout, b_layout, c_layout, d_layout)]
        pointers, index = (a, b, c, d), ctypes.c_uint64.from_address(algorithm).value
        self.products.append({"layouts": layouts, "pointers": pointers, "algorithm": index, "rest": rest})
        self.products[-1]["attributes"] = dict(self.attributes[operation])
        return self.status


class FakeContext(CublasContext):
    """A context of a CPU."""

    def guard(self) -> contextlib.AbstractContextManager[Any]:
        """Do nothing, as there is no GPU."""
        return contextlib.nullcontext()

    def stream(self) -> int:
        """Return a made-up stream."""
        return STREAM


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCublasLt:
    """Replace the library and the GPU."""
    fake = FakeCublasLt()
    context = FakeContext(fake, CPU)
    monkeypatch.setattr(cublaslt_api, "context_of", lambda _: context)
    return fake


def aligned(*shape: int, offset: int = 0) -> torch.Tensor:
    """Return zeros in E4M3 that begin `offset` bytes behind a multiple of 256."""
    size = torch.Size(shape).numel()
    memory = torch.zeros(size + 512, dtype=torch.uint8)
    start = -memory.data_ptr() % 256 + offset
    return memory[start : start + size].view(E4M3).view(shape)


def product() -> GeluProduct:
    """Return a product of a weight (32, 64)."""
    return GeluProduct(aligned(32, 64), torch.ones(1), torch.zeros(32, dtype=torch.bfloat16))


def test_structures_and_constants_are_those_of_the_header() -> None:
    """Printed by a C program that includes cublasLt.h of cuBLAS 13.1.0 (CUBLAS_VERSION 130100)."""
    assert ctypes.sizeof(HeuristicResult) == 96
    offsets = [getattr(HeuristicResult, name).offset for name, *_ in HeuristicResult._fields_]
    assert offsets == [0, 64, 72, 76, 80]
    api = cublaslt_api
    assert (api.CUDA_R_32F, api.CUDA_R_16BF, api.CUDA_R_8F_E4M3, api.COMPUTE_32F) == (0, 14, 28, 68)
    assert (api.OP_N, api.OP_T, api.EPILOGUE_GELU_BIAS) == (0, 1, 36)
    assert (api.TRANSA, api.TRANSB, api.EPILOGUE, api.BIAS_POINTER) == (3, 4, 7, 8)
    assert (api.A_SCALE_POINTER, api.B_SCALE_POINTER, api.D_SCALE_POINTER) == (17, 18, 20)
    assert (api.FAST_ACCUM, api.BIAS_DATA_TYPE) == (25, 26)
    assert (api.MAX_WORKSPACE, api.MIN_ALIGNMENT_A, api.MIN_ALIGNMENT_B) == (1, 5, 6)


def test_a_product_is_what_the_library_is_called_with(fake: FakeCublasLt) -> None:
    """Every attribute, layout, pointer and size."""
    multiply, x, x_scale, out_scale = product(), aligned(5, 64), torch.ones(1), torch.ones(())
    y = multiply(x, x_scale, out_scale)
    assert (y.shape, y.dtype) == ((5, 32), E4M3)
    (call,) = fake.products
    expected = {
        3: 1,
        4: 0,
        7: 36,
        8: multiply._bias.data_ptr(),
        17: multiply._weight_scale.data_ptr(),
        18: x_scale.data_ptr(),
        20: out_scale.data_ptr(),
        25: 1,
        26: 14,
    }
    assert call["attributes"] == expected
    layouts = [(28, 64, 32, 64), (28, 64, 5, 64), (14, 32, 5, 32), (28, 32, 5, 32)]
    assert call["layouts"] == [("layout", *layout) for layout in layouts]
    assert call["pointers"] == (multiply._weight.data_ptr(), x.data_ptr(), 0, y.data_ptr())
    assert call["algorithm"] == 100
    workspace = multiply._context._workspaces[STREAM]
    assert call["rest"] == [workspace.data_ptr(), 32 << 20, STREAM]
    assert workspace.numel() == 32 << 20
    before, seen_layouts, preference = fake.seen
    assert before.keys() == expected.keys()  # the heuristic knows which pointers there are
    assert all(before.values()) or before[4] == 0
    assert seen_layouts == call["layouts"]
    assert preference == {1: 32 << 20, 5: 256, 6: 256}


def test_a_plan_is_made_once_for_a_number_of_rows(fake: FakeCublasLt) -> None:
    """A second call sets only pointers that have changed."""
    multiply, x, scales = product(), aligned(5, 64), torch.ones(4)
    multiply(x, scales[0], scales[3])
    n_sets = len(fake.sets)
    multiply(x, scales[0], scales[3])
    assert len(fake.sets) == n_sets
    multiply(x, scales[1], scales[2])
    assert [attribute for _, attribute in fake.sets[n_sets:]] == [18, 20]
    multiply(x, scales[1], scales[3])
    assert [attribute for _, attribute in fake.sets[n_sets:]] == [18, 20, 20]
    assert fake.products[-1]["attributes"][20] == scales[3].data_ptr()
    assert fake.heuristics == 1
    multiply(aligned(6, 64), scales[0], scales[3])
    assert fake.heuristics == 2


def test_rows_that_are_less_aligned_have_a_plan_of_their_own(fake: FakeCublasLt) -> None:
    """Or an algorithm would be used that cannot read them."""
    multiply, scale = product(), torch.ones(())
    multiply(aligned(5, 64), scale, scale)
    multiply(aligned(5, 64, offset=64), scale, scale)
    assert fake.heuristics == 2
    assert fake.seen[2] == {1: 32 << 20, 5: 256, 6: 16}
    with pytest.raises(ValueError, match="memory of x must begin at a multiple of 16 bytes"):
        multiply(aligned(5, 64, offset=8), scale, scale)


def test_the_plan_least_recently_used_is_destroyed(fake: FakeCublasLt, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of them with the product."""
    monkeypatch.setattr(cublaslt, "MAX_PLANS", 2)
    multiply, scale, handles = product(), torch.ones(()), len(fake.alive)
    for n_rows in (1, 2):
        multiply(aligned(n_rows, 64), scale, scale)
    assert len(fake.alive) == handles + 2 * 6  # an operation, four layouts, a preference
    multiply(aligned(1, 64), scale, scale)
    multiply(aligned(3, 64), scale, scale)
    assert [n_rows for n_rows, _ in multiply._plans] == [1, 3]
    assert len(fake.alive) == handles + 2 * 6
    del multiply
    gc.collect()
    assert len(fake.alive) == handles


def test_what_the_library_refuses_is_an_error_that_says_what(fake: FakeCublasLt) -> None:
    """Rows, shape, function and the status; nothing is left over, and the next call works."""
    multiply, x, scale, handles = product(), aligned(5, 64), torch.ones(()), len(fake.alive)
    what = r"5 rows and a weight \(32, 64\) in E4M3 with bias and GELU, to E4M3"
    for fault, text in (
        ({"heuristic_status": 15}, f"cannot find an algorithm for {what}: CUBLAS_STATUS_NOT_SUPPORTED"),
        ({"state": 15}, f"cannot find an algorithm for {what}: CUBLAS_STATUS_NOT_SUPPORTED"),
        ({"count": 0}, f"has no algorithm for {what}"),
    ):
        healthy = {name: getattr(fake, name) for name in fault}
        vars(fake).update(fault)
        with pytest.raises(CublasError, match=text):
            multiply(x, scale, scale)
        vars(fake).update(healthy)
        gc.collect()
        assert len(fake.alive) == handles
    fake.status = 7
    with pytest.raises(CublasError, match=f"cannot multiply {what}: CUBLAS_STATUS_INVALID_VALUE"):
        multiply(x, scale, scale)
    fake.status = 0
    assert multiply(x, scale, scale).shape == (5, 32)


def test_no_rows_need_no_call(fake: FakeCublasLt) -> None:
    """Their output has no rows either."""
    assert product()(aligned(0, 64), torch.ones(()), torch.ones(())).shape == (0, 32)
    assert fake.heuristics == len(fake.products) == 0


@pytest.mark.parametrize(
    ("x", "x_scale", "message"),
    [
        (torch.zeros(5, 64), torch.ones(()), "x must be contiguous torch.float8_e4m3fn"),
        (aligned(5, 32), torch.ones(()), r"x must be \(tokens, 64\)"),
        (aligned(64), torch.ones(()), r"x must be \(tokens, 64\)"),
        (aligned(64, 5).t(), torch.ones(()), "not contiguous"),
        (aligned(5, 64), torch.ones(5), "x_scale must be contiguous torch.float32 of 1 elements"),
        (aligned(5, 64), torch.ones((), dtype=torch.float64), "x_scale must be"),
        (aligned(5, 64), torch.ones((), device="meta"), "x_scale must be .* on cpu; it is .* on meta"),
    ],
)
def test_arguments_of_a_call_are_checked(
    fake: FakeCublasLt, x: torch.Tensor, x_scale: torch.Tensor, message: str
) -> None:
    """Before anything is called."""
    with pytest.raises(ValueError, match=message):
        product()(x, x_scale, torch.ones(()))
    with pytest.raises(ValueError, match="out_scale must be"):
        product()(aligned(5, 64), torch.ones(()), torch.ones(2))
    assert not fake.products


@pytest.mark.usefixtures("fake")
def test_a_weight_is_checked() -> None:
    """Shape, types, numbers of scales and the device."""
    weight, scale, bias = aligned(32, 64), torch.ones(()), torch.zeros(32, dtype=torch.bfloat16)
    for arguments, message in (
        ((aligned(32, 40), scale, bias), "both multiples of 16"),
        ((weight.view(-1), scale, bias), "both multiples of 16"),
        ((weight.float(), scale, bias), "weight must be contiguous torch.float8_e4m3fn"),
        ((aligned(64, 32).t(), scale, bias), "weight must be contiguous"),
        ((aligned(32, 64, offset=8), scale, bias), "memory of weight must begin at a multiple of 16 bytes"),
        ((weight, torch.ones(32), bias), "weight_scale must be"),
        ((weight, scale, bias.float()), "bias must be contiguous torch.bfloat16 of 32"),
        ((weight, scale, bias[:16]), "bias must be"),
    ):
        with pytest.raises(ValueError, match=message):
            GeluProduct(*arguments)


def test_a_weight_on_a_cpu_is_refused() -> None:
    """Without loading any library."""
    with pytest.raises(ValueError, match="the weight must be on a GPU; it is on cpu"):
        product()


def test_a_missing_library_is_an_error_that_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch has no CUDA, and where the file is not there."""
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(CublasError, match="this PyTorch is built without CUDA"):
        cublaslt_api.library.__wrapped__()
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    with pytest.raises(CublasError, match=r"there is no libcublasLt.so.99"):
        cublaslt_api.library.__wrapped__()
