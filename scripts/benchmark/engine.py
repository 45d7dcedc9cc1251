"""Part 1: the engine alone, from tokens to values, as a fraction of the roofline measured beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from handler.batching import plan
from handler.predictor import Predictor
from scripts.benchmark.arithmetic import Sample
from scripts.benchmark.measure import Run, interleave, timed
from scripts.benchmark.models import Subject, try_load
from scripts.benchmark.roofline import roofline
from scripts.benchmark.texts import Mix
from scripts.cli.console import say

SHORTEST = 0.03  # s, of one measurement at least: what is faster is repeated within it


def measure(
    subject: Subject, loaded: dict[str, Predictor], told: Sequence[Mix], seconds: float
) -> list[dict[str, Any]]:
    """Measure every precision on every distribution of lengths, engines and rooflines in turn."""
    rows = []
    for mix in told:
        encodings = subject.encode(mix.texts)
        device = next(iter(loaded.values())).engine.device
        once = min(timed(partial(one.engine.run, encodings), device) for one in loaded.values() for _ in "12")
        times = max(1, round(SHORTEST / once))
        contenders: dict[str, Run] = {}
        widths = {precision: width_of(predictor, mix) for precision, predictor in loaded.items()}
        for precision, predictor in loaded.items():
            contenders[f"engine {precision}"] = partial(_repeat, partial(predictor.engine.run, encodings), times)
            roof = roofline(subject.shape, widths[precision], precision, predictor.engine.device)
            if roof is not None:
                layers = max(1, round(times * subject.shape.layers * mix.tokens / widths[precision]))
                contenders[f"roofline {precision}"] = partial(_repeat, roof, layers)
        samples = interleave(contenders, device, seconds)
        for precision, predictor in loaded.items():
            work = {
                "model": subject.name,
                "mix": mix.name,
                "precision": precision,
                "texts": len(mix.texts),
                "tokens": mix.tokens,
                "mean_length": mix.tokens / len(mix.texts),
                "width": widths[precision],
                "packed": predictor.engine.packed,
                "times": times,
            }
            layers = max(1, round(times * subject.shape.layers * mix.tokens / widths[precision]))
            rows.append(
                row_of(
                    work,
                    times * subject.shape.flops(mix.lengths),
                    layers * subject.shape.layer_flops(widths[precision]),
                    samples[f"engine {precision}"],
                    samples.get(f"roofline {precision}"),
                )
            )
            share = f"{rows[-1]['fraction']:.0%} of the roofline" if "fraction" in rows[-1] else "no roofline"
            say(f"engine {subject.name} {mix.name} {precision}: {rows[-1]['texts_per_s']:.1f} texts/s, {share}")
    return rows


def row_of(work: dict[str, Any], flops: int, roof_flops: int, engine: Sample, roof: Sample | None) -> dict[str, Any]:
    """Turn times into rates. The fraction is that of each round, of which the median is told: what slows a round
    down slows both of its halves.
    """
    row = work | {
        "engine": engine.to_json(),
        "texts_per_s": work["times"] * work["texts"] / engine.median,
        "tokens_per_s": work["times"] * work["tokens"] / engine.median,
        "gflops": flops / engine.median / 1e9,
    }
    if roof is not None:
        pairs = zip(engine.seconds, roof.seconds, strict=True)
        fractions = Sample(tuple((flops / its) / (roof_flops / best) for its, best in pairs))
        row |= {
            "roofline": roof.to_json(),
            "roofline_gflops": roof_flops / roof.median / 1e9,
            "fraction": fractions.median,
            "fraction_spread": list(fractions.spread),
        }
    return row


def width_of(predictor: Predictor, mix: Mix) -> int:
    """Return the tokens of the largest forward pass that the engine plans for a mix."""
    engine = predictor.engine
    batches = plan(mix.lengths, engine.max_batch_tokens, padded=not engine.packed)
    return max(sum(mix.lengths[row] for row in batch) for batch in batches)


def load(
    subject: Subject, device: torch.device, precisions: Sequence[str] | None = None
) -> tuple[dict[str, Predictor], list[str]]:
    """Load a model at every precision that it can be had in; say which could not be."""
    loaded, skipped = {}, []
    for precision in precisions or subject.precisions(device):
        found = try_load(subject, precision, device)
        if isinstance(found, str):
            skipped.append(found)
            say(found)
        else:
            loaded[precision] = found
    return loaded, skipped


def _repeat(run: Run, times: int) -> None:
    for _ in range(times):
        run()
