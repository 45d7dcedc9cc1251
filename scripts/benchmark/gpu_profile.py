"""Where the time of bert-large goes on a GPU, and what each choice of the engine gains.

python -m scripts.benchmark.gpu_profile --device cuda:0 --output profile.json; see scripts/gpu_acceptance.sh.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from handler.engine import fp8, fusion
from handler.engine.linear import Linear
from handler.engine.probe import random_encodings
from scripts.benchmark.gpu import MODELS, GpuModel, kernels, mixes
from scripts.benchmark.measure import Run, interleave
from scripts.cli.files import check_output, write_whole
from scripts.cli.options import path_name, torch_device

SECONDS = 4.0  # of one comparison
Variant = Callable[[], contextlib.AbstractContextManager[Any]]


def main() -> int:
    """Profile each precision and time the variants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch_device, default="cuda:0")
    parser.add_argument("--model", choices=MODELS, default="bert-large")
    parser.add_argument("--output", type=path_name, required=True, metavar="FILE")
    arguments = parser.parse_args()
    check_output(arguments.output)  # before minutes of measuring
    with tempfile.TemporaryDirectory(prefix="profile-") as scratch:
        model = GpuModel(*MODELS[arguments.model], arguments.device, Path(scratch), compile_peer=False)
        results: dict[str, Any] = {"model": arguments.model, "variants": variants(model)}
        keep(results, arguments.output)
        if arguments.device.type == "cuda":
            results["kernels"] = kernels(model)
            keep(results, arguments.output)
    for row in results["variants"]:
        speed = f"{row['texts_per_s']:7.0f} texts/s, {row['ratio']:.3f} of the time as served"
        print(f"{row['precision']:5} {row['lengths']:6} {row['variant']:24} {speed}")
    for row in results.get("kernels", []):
        print(row["name"], {kind: round(seconds / row["busy_s"], 3) for kind, seconds in row["kinds"].items()})
    return 0


def keep(results: dict[str, Any], path: Path) -> None:
    """Write what is known so far: the process may be stopped."""
    write_whole(path, json.dumps(results, indent=1) + "\n")


def variants(model: GpuModel) -> list[dict[str, Any]]:
    """Time the engine as served and with one choice undone, interleaved; ratios of medians."""
    rows = []
    for precision, predictor in model.predictors.items():
        engine: Any = predictor.engine
        for lengths, drawn in mixes().items():
            encodings = random_encodings(model.config, drawn)
            runs: dict[str, Run] = {"as served": partial(engine.run, encodings)}
            runs |= {name: partial(within, undo, runs["as served"]) for name, undo in undone(engine).items()}
            timings = interleave(runs, model.device, SECONDS)
            served = timings["as served"].median
            rows += [
                {
                    "precision": precision,
                    "lengths": lengths,
                    "variant": name,
                    "ratio": timings[name].median / served,
                    "texts_per_s": len(encodings) / timings[name].median,
                    "times": timings[name].to_json(),
                }
                for name in runs
            ]
    return rows


def within(variant: Variant, run: Run) -> None:
    """Run within a variant."""
    with variant():
        run()


def undone(engine: Any) -> dict[str, Variant]:
    """Return the choices of an engine that can be undone while it runs."""
    choices: dict[str, Variant] = {}
    if getattr(engine, "graphs", None):
        choices["no graphs"] = partial(replaced, engine, "graphs", {})
    encoder = engine.model.base_model.encoder
    layers = getattr(encoder, "layers", [])
    if getattr(encoder, "tile_kernel", None) is not None:
        choices["attention by sequences"] = partial(replaced, encoder, "tile_kernel", None)
    if any(isinstance(layer.linears["intermediate"], fusion.GeluLinear) for layer in layers):
        choices["GELU after the product"] = partial(replaced, fusion.GeluLinear, "__call__", Linear.__call__)
    linears = [linear for layer in layers for linear in layer.linears.values() if isinstance(linear, fp8.Fp8Linear)]
    if any(linear.activated for linear in linears):
        choices["GELU after the product"] = partial(apart, linears)
    if linears:
        choices["exact sums in fp8"] = partial(exact_sums, linears)
    return choices


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def apart(linears: list[fp8.Fp8Linear]) -> Iterator[None]:
    """Let PyTorch multiply, and a kernel of its own apply the activation."""
    activated = [linear.activated for linear in linears]
    for linear in linears:
        linear.activated = None
    try:
        yield
    finally:
        for linear, product in zip(linears, activated, strict=True):
            linear.activated = product


@contextlib.contextmanager
def exact_sums(linears: list[fp8.Fp8Linear]) -> Iterator[None]:
    """Let products in fp8 add in full precision, which Hopper does outside of its matrix units."""
    for linear in linears:
        linear.multiply = partial(fp8.scaled_matmul, fast_sums=False)
    try:
        yield
    finally:
        for linear in linears:
            linear.multiply = fp8.scaled_matmul


if __name__ == "__main__":
    run(main)
