"""Part 1: the engine alone, from tokens to values, as a fraction of the roofline measured beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from handler.batching import plan
from handler.engine.device import to_torch
from handler.engine.precision import TOLERANCES
from handler.predictor import Predictor
from scripts.benchmark.measure import Run, interleave, timed
from scripts.benchmark.models import BenchmarkModel, try_load
from scripts.benchmark.roofline import roofline
from scripts.benchmark.statistics import Timings
from scripts.benchmark.texts import Mix
from scripts.cli.console import say

MIN_SECONDS = 0.03  # of one measurement: a faster run is repeated within it


def measure(
    model: BenchmarkModel, loaded: dict[str, Predictor], mixes: Sequence[Mix], seconds: float, *, padded: bool = False
) -> list[dict[str, Any]]:
    """Measure every precision on every distribution of lengths, engines and rooflines interleaved.

    Args:
        padded: whether to measure beside them the modules of transformers, on batches that are padded.
    """
    rows = []
    of_transformers = {
        precision: model.load(precision, to_torch(predictor.engine.device), packed=False)
        for precision, predictor in loaded.items()
        if padded and precision in TOLERANCES
    }
    for mix in mixes:
        encodings = model.encode(mix.texts)
        device = to_torch(next(iter(loaded.values())).engine.device)
        once = min(
            timed(partial(predictor.engine.run, encodings), device) for predictor in loaded.values() for _ in "12"
        )
        repeats = max(1, round(MIN_SECONDS / once))
        runs: dict[str, Run] = {}
        widths = {precision: width_of(predictor, mix) for precision, predictor in loaded.items()}
        for precision, predictor in loaded.items():
            runs[f"engine {precision}"] = partial(_repeat, partial(predictor.engine.run, encodings), repeats)
            if precision in of_transformers:
                run = partial(of_transformers[precision].engine.run, encodings)
                runs[f"padded {precision}"] = partial(_repeat, run, repeats)
            roof = roofline(model.shape, widths[precision], precision, device)
            if roof is not None:
                layers = max(1, round(repeats * model.shape.layers * mix.tokens / widths[precision]))
                runs[f"roofline {precision}"] = partial(_repeat, roof, layers)
        samples = interleave(runs, device, seconds)
        for precision, predictor in loaded.items():
            work = {
                "model": model.name,
                "mix": mix.name,
                "precision": precision,
                "texts": len(mix.texts),
                "tokens": mix.tokens,
                "mean_length": mix.tokens / len(mix.texts),
                "width": widths[precision],
                "packed": predictor.engine.packed,
                "times": repeats,
            }
            layers = max(1, round(repeats * model.shape.layers * mix.tokens / widths[precision]))
            rows.append(
                row_of(
                    work,
                    repeats * model.shape.flops(mix.lengths),
                    layers * model.shape.layer_flops(widths[precision]),
                    samples[f"engine {precision}"],
                    samples.get(f"roofline {precision}"),
                )
            )
            if padded_times := samples.get(f"padded {precision}"):
                pairs = zip(samples[f"engine {precision}"].seconds, padded_times.seconds, strict=True)
                ratios = Timings(tuple(padded_s / engine_s for engine_s, padded_s in pairs))
                ratio = {"to_padded": ratios.median, "to_padded_spread": list(ratios.quartiles)}
                rows[-1] |= {"padded": padded_times.to_json()} | ratio
            share = f"{rows[-1]['fraction']:.0%} of the roofline" if "fraction" in rows[-1] else "no roofline"
            say(f"engine {model.name} {mix.name} {precision}: {rows[-1]['texts_per_s']:.1f} texts/s, {share}")
    return rows


def row_of(work: dict[str, Any], flops: int, roof_flops: int, engine: Timings, roof: Timings | None) -> dict[str, Any]:
    """Convert times to rates. The fraction is the median of the fractions of the rounds: a disturbance slows engine
    and roofline of a round alike.
    """
    row = work | {
        "engine": engine.to_json(),
        "texts_per_s": work["times"] * work["texts"] / engine.median,
        "tokens_per_s": work["times"] * work["tokens"] / engine.median,
        "gflops": flops / engine.median / 1e9,
    }
    if roof is not None:
        pairs = zip(engine.seconds, roof.seconds, strict=True)
        fractions = Timings(tuple((flops / seconds) / (roof_flops / roof_s) for seconds, roof_s in pairs))
        row |= {
            "roofline": roof.to_json(),
            "roofline_gflops": roof_flops / roof.median / 1e9,
            "fraction": fractions.median,
            "fraction_spread": list(fractions.quartiles),
        }
    return row


def width_of(predictor: Predictor, mix: Mix) -> int:
    """Return the tokens of the largest forward pass that the engine plans for a mix."""
    engine = predictor.engine
    batches = plan(mix.lengths, engine.max_batch_tokens, padded=not engine.packed)
    return max(sum(mix.lengths[row] for row in batch) for batch in batches)


def load(
    model: BenchmarkModel, device: torch.device, precisions: Sequence[str] | None = None
) -> tuple[dict[str, Predictor], list[str]]:
    """Load a model at every precision that it supports; return the reasons of those that failed too."""
    loaded, skipped = {}, []
    for precision in precisions or model.precisions(device):
        predictor = try_load(model, precision, device)
        if isinstance(predictor, str):
            skipped.append(predictor)
            say(predictor)
        else:
            loaded[precision] = predictor
    return loaded, skipped


def _repeat(run: Run, times: int) -> None:
    for _ in range(times):
        run()
