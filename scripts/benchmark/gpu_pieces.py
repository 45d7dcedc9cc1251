"""What every piece of a layer costs on a GPU: ceilings, products, steps between them, attention, launches.

python -m scripts.benchmark.gpu_pieces --output pieces.json; see scripts/gpu_acceptance.sh. Times are of replayed CUDA
graphs of many calls, so launches do not count; the part `launches` measures those. What fails is reported, and the next
piece is measured.
"""

from __future__ import annotations

from scripts.cli.command import run as run_command

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.batching import plan
from handler.engine import fp8, fusion
from handler.engine.attention import varlen_attn
from handler.engine.batch import VarlenMetadata
from scripts.benchmark.flops import EncoderShape
from scripts.benchmark.gpu import MODELS, mixes
from scripts.benchmark.measure import Run
from scripts.cli.files import check_output, write_whole
from scripts.cli.options import names_of, path_name, torch_device

BF16 = torch.bfloat16
ROWS = (8192, 16384, 32768)
CUBE = 8192  # rows and widths of the products that are the ceiling
BUSY_S = 2.0  # of products before the sustained ceiling is measured: the power limit shows after about a second
CALLS, REPEATS = 20, 7  # of a graph
HOST_CALLS = 300
Row = dict[str, Any]


class Pieces:
    """The pieces of one model's layers on one GPU."""

    def __init__(self, name: str, device: torch.device) -> None:
        layers, width = MODELS[name]
        self.shape, self.width, self.heads = EncoderShape(layers, width, 4 * width), width, width // 64
        self.device = device

    def randn(self, *shape: int) -> Tensor:
        """Return random numbers in bf16."""
        return torch.randn(shape, device=self.device).to(BF16)

    def values(self, *shape: int) -> Tensor:
        """Return random numbers in E4M3."""
        return fp8.quantize(torch.randn(shape, device=self.device), torch.tensor(0.01, device=self.device))

    def ceilings(self) -> Iterable[tuple[str, Row, Callable[[], float]]]:
        """Copy a gigabyte, and multiply large squares, at once and after two seconds of work."""
        bytes_ = torch.empty(1 << 30, dtype=torch.uint8, device=self.device)
        x, weight = self.randn(CUBE, CUBE), self.randn(CUBE, CUBE)
        work = {"flops": 2 * CUBE**3}
        yield "copy", {"bytes": 2 * bytes_.numel()}, partial(gpu_seconds, bytes_.clone, 5)
        yield "bf16 square", work, partial(gpu_seconds, lambda: functional.linear(x, weight), 5)
        values = self.values(CUBE, CUBE)
        linear = fp8.Fp8Linear.of(weight, torch.tensor(0.01, device=self.device))
        yield "fp8 square", work, partial(gpu_seconds, lambda: fp8.scaled_matmul(values, linear), 5)
        yield "bf16 square, sustained", work, lambda: sustained(lambda: functional.linear(x, weight))

    def products(self) -> Iterable[tuple[str, Row, Callable[[], float]]]:
        """Multiply as a layer does, in bf16 and fp8, with GELU and without."""
        one = torch.ones((), device=self.device)
        for rows in ROWS:
            for index, (_, k, n) in enumerate(self.shape.products()):
                x, weight, bias, name = self.randn(rows, k), self.randn(n, k), self.randn(n), f"{rows} x {k} x {n}"
                values, work = self.values(rows, k), {"flops": 2 * rows * k * n}
                linear = fp8.Fp8Linear.of(weight, one)
                ways: dict[str, Run] = {
                    "bf16": partial(functional.linear, x, weight, bias),
                    "fp8": partial(fp8.scaled_matmul, values, linear),
                    "fp8, exact sums": partial(fp8.scaled_matmul, values, linear, fast_sums=False),
                }
                if index == 2:
                    ways["bf16, GELU"] = partial(torch._addmm_activation, bias, x, weight.t(), use_gelu=True)
                    ways["fp8 by tensor, GELU, to fp8"] = self.with_gelu(weight, values)
                for way, run in ways.items():
                    yield f"{name} {way}", work, partial(gpu_seconds, run)

    def with_gelu(self, weight: Tensor, values: Tensor) -> Run:
        """Return a product of cuBLASLt with GELU and eight-bit outputs, which is made at the first call."""
        scale = torch.tensor(0.1, device=self.device)
        linear = fp8.Fp8Linear.of(weight, scale, scale)

        def run() -> Tensor:
            if linear.activated is None:
                linear.fuse_gelu()
            product: Tensor = linear(values, "gelu")
            return product

        return run

    def steps(self) -> Iterable[tuple[str, Row, Callable[[], float]]]:
        """Run the compiled steps between products."""
        weight, bias, scale = self.randn(self.width), self.randn(self.width), torch.tensor(0.1, device=self.device)

        def states(rows: int) -> tuple[Any, ...]:
            return self.randn(rows, self.width), self.randn(rows, self.width), weight, bias

        ops: dict[str, tuple[Callable[..., Any], fusion.Example, int]] = {  # and the bytes of a row
            "norm": (fusion.add_norm, lambda rows: (*states(rows), 1e-12), 6 * self.width),
            "norm, fp8": (fp8.add_norm_quantize, lambda rows: (*states(rows), scale, 1e-12), 7 * self.width),
            "GELU, fp8": (
                fp8.activation_quantize,
                lambda rows: (self.randn(rows, self.shape.inner), scale, "gelu"),
                3 * self.shape.inner,
            ),
        }
        for name, (op, example, row_bytes) in ops.items():
            (compiled,) = fusion.compile_ops([(op, example)]) or [op]
            for rows in ROWS:
                run = partial(compiled, *example(rows))
                yield f"{rows} {name}", {"bytes": rows * row_bytes}, partial(gpu_seconds, run)

    def attention(self) -> Iterable[tuple[str, Row, Callable[[], float]]]:
        """Attend within sequences of several distributions of lengths, by sequences and by tiles."""
        batches = {mix: [lengths[index] for index in plan(lengths, ROWS[1])[0]] for mix, lengths in mixes().items()}
        for mix, lengths in {**batches, "long": [512] * 32}.items():
            ends = torch.tensor([0, *lengths], device=self.device).cumsum(0).int()
            varlen, longest = VarlenMetadata(tuple(lengths), ends, max(lengths)), max(lengths)
            qkv = self.randn(sum(lengths), 3 * self.width)
            q, k, v = (part.view(len(qkv), self.heads, -1) for part in qkv.chunk(3, -1))
            work = {"texts": len(lengths), "tokens": len(qkv)}
            by_sequence = partial(varlen_attn, q, k, v, ends, ends, longest, longest)
            yield f"{mix} by sequences", work, partial(gpu_seconds, by_sequence)
            for name, inverse in (("bf16", None), ("fp8", 100.0)):
                run = partial(attend_tiles, qkv, *varlen.token_bounds(), self.heads, inverse)
                yield f"{mix} by tiles, {name}", work, partial(gpu_seconds, run)

    def launches(self) -> Iterable[tuple[str, Row, Callable[[], float]]]:
        """Launch kernels over a few rows: the time of Python and PyTorch."""
        x, weight, bias = self.randn(64, self.width), self.randn(self.width, self.width), self.randn(self.width)
        qkv, ends = self.randn(64, 3 * self.width), torch.tensor([0, 30, 64], device=self.device).int()
        q, k, v = (part.view(64, self.heads, -1) for part in qkv.chunk(3, -1))
        bounds = VarlenMetadata((30, 34), ends, 34).token_bounds()

        def arguments(rows: int) -> tuple[Any, ...]:
            return self.randn(rows, self.width), self.randn(rows, self.width), bias, bias, 1e-12

        (norm,) = fusion.compile_ops([(fusion.add_norm, arguments)]) or [fusion.add_norm]
        ways: dict[str, Run] = {
            "product": partial(functional.linear, x, weight, bias),
            "compiled norm": partial(norm, *arguments(64)),
            "attention by sequences": partial(varlen_attn, q, k, v, ends, ends, 34, 34),
            "attention by tiles": partial(attend_tiles, qkv, *bounds, self.heads),
        }
        for name, run in ways.items():
            yield f"launch {name}", {}, partial(host_seconds, run, self.device)


def attend_tiles(*arguments: Any) -> Tensor:
    """Attend by tiles; Triton is imported at the first call."""
    from handler.engine import tile_attention

    context: Tensor = tile_attention.attend_tiles(*arguments)
    return context


PARTS = ("ceilings", "products", "steps", "attention", "launches")


def gpu_seconds(run: Run, calls: int = CALLS) -> float:
    """Return the median seconds of a call on the GPU, from a graph of several."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            run()
    seconds: list[float] = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "12")  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(seconds)


def sustained(run: Run) -> float:
    """Return the seconds of a call after the GPU was busy for a while."""
    began = time.monotonic()
    while time.monotonic() - began < BUSY_S:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    return gpu_seconds(run, 50)


def host_seconds(run: Run, device: torch.device) -> float:
    """Return the seconds that Python takes to launch a call."""
    best = float("inf")
    for _ in range(4):  # the first one is a warm-up
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(HOST_CALLS):
            run()
        best = min(best, (time.perf_counter() - began) / HOST_CALLS)
    torch.cuda.synchronize(device)
    return best


def measure(pieces: Pieces, part: str) -> Iterable[Row]:
    """Measure the pieces of a part."""
    for name, work, seconds_of in getattr(pieces, part)():
        row: Row = {"part": part, "name": name, **work}
        try:
            row["us"] = 1e6 * seconds_of()
        except Exception as error:  # noqa: BLE001 - the other pieces are still measured
            row["failed"] = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        if "us" in row and "flops" in row:
            row["tflops"] = row["flops"] / row["us"] / 1e6
        if "us" in row and "bytes" in row:
            row["tb_per_s"] = row["bytes"] / row["us"] / 1e6
        yield row


def line(row: Row) -> str:
    """Return a row as it is printed.

    >>> line({"part": "products", "name": "8 x 8 x 8 bf16", "us": 1.0, "flops": 10**9, "tflops": 1000.0})
    '8 x 8 x 8 bf16                                     1.0 us   1000 TFLOP/s'
    """
    if "failed" in row:
        return f"{row['name']} failed: {row['failed']}"
    rate = f" {row['tflops']:6.0f} TFLOP/s" if "tflops" in row else ""
    rate += f" {row['tb_per_s']:6.2f} TB/s" if "tb_per_s" in row else ""
    return f"{row['name']:44} {row['us']:9.1f} us{rate}"


def parts(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of parts."""
    return names_of(word, PARTS, "part")


@torch.inference_mode()
def main() -> int:
    """Measure the parts and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch_device, default="cuda:0")
    parser.add_argument("--model", choices=MODELS, default="bert-large", help="default: %(default)s")
    parser.add_argument("--only", type=parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--output", type=path_name, required=True, metavar="FILE")
    arguments = parser.parse_args()
    check_output(arguments.output)  # before minutes of measuring
    pieces, rows = Pieces(arguments.model, arguments.device), []
    for part in arguments.only:
        for row in measure(pieces, part):
            rows.append(row)
            print(line(row), flush=True)
        write_whole(arguments.output, json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
