"""Measurements of one model on a GPU: speed against matrix products and transformers, latency, agreement.

Needs PyTorch and transformers, nothing else. Lengths follow the distribution of real texts, tokens are random; all
sequences differ, because equal ones are computed once.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from handler.config import ServingConfig
from handler.engine import fp8, memory
from handler.engine.precision import Precision, supported
from handler.engine.probe import random_encodings
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from scripts.benchmark.flops import EncoderShape
from scripts.benchmark.measure import Run, interleave, timed
from scripts.benchmark.roofline import roofline, square
from scripts.benchmark.statistics import Timings, quantile
from scripts.benchmark.synthetic import random_classifier, word_tokenizer

Row = dict[str, Any]
Keep = Callable[[Row], None]

MODELS = {"bert-large": (24, 1024), "bert-base": (12, 768), "small": (6, 384)}  # layers and width
TOKENS = 131_072  # of one measurement
SIZES = (128, 512)  # texts in a batch of a peer; the faster one counts
SECONDS = 3.0  # of one comparison
LATENCY_TEXTS = (1, 8, 32)  # texts in one call
TIMES = 200  # calls of each
KINDS = {  # kind of a kernel -> words in its name; the first match counts
    "attention": ("flash", "fmha", "attention"),  # before the products: its names hold cutlass
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma"),
    "fused steps": ("triton",),
    "activation": ("gelu",),
    "copies": ("memcpy", "memset"),
}
LARGEST_KERNELS = 10  # reported by name
COMPILED_PEER = ("bert-base",)  # compiling the layers of a larger one takes as long as all other parts


@dataclass(frozen=True)
class LengthDistribution:
    """Log-normal distribution of the tokens of a text, clipped to a minimum and a maximum."""

    mean: float
    sigma: float
    minimum: int
    maximum: int

    def draw(self, tokens: int) -> list[int]:
        """Return shuffled lengths that sum to about `tokens`, the same ones every time.

        >>> drawn = LengthDistribution(177, 0.45, 24, 384).draw(100_000)
        >>> 0.97 < statistics.mean(drawn) / 177 < 1.03, min(drawn) >= 24, max(drawn) <= 384
        (True, True, True)
        """
        count = max(1, round(tokens / self.mean))
        normal = statistics.NormalDist(log(self.mean) - self.sigma**2 / 2, self.sigma)
        drawn = [exp(normal.inv_cdf((index + 0.5) / count)) for index in range(count)]
        lengths = [min(self.maximum, max(self.minimum, round(length))) for length in drawn]
        random.Random(0).shuffle(lengths)  # noqa: S311 - reproducible
        return lengths


SQUAD = LengthDistribution(177, 0.45, 24, 384)  # question and context, windowed as in BERT's own script
SHORT = LengthDistribution(15, 0.45, 4, 64)  # a question, a tweet, an intent


def mixes() -> dict[str, list[int]]:
    """Return lengths by name: like SQuAD, short, and half of the tokens of each."""
    both = SQUAD.draw(TOKENS // 2) + SHORT.draw(TOKENS // 2)
    random.Random(0).shuffle(both)  # noqa: S311 - reproducible
    return {"squad": SQUAD.draw(TOKENS), "short": SHORT.draw(TOKENS), "mixed": both}


class GpuModel:
    """One random model, loaded at every precision that the GPU supports."""

    def __init__(
        self, layers: int, width: int, device: torch.device, scratch: Path, *, compile_peer: bool = True
    ) -> None:
        self.device, self.compile_peer = device, compile_peer
        self.folder = random_classifier(scratch / "model", layers, width, word_tokenizer(), device=device)
        self.half = supported(device)[0]
        self.predictors: dict[str, Predictor] = {}
        for precision in [self.half, *(["fp8"] if fp8.supported(device) else [])]:
            config = ServingConfig(precision=precision)  # type: ignore[arg-type]
            self.predictors[precision] = load_predictor(self.folder, config, device)
        self.config = self.predictors[self.half].engine.model.config
        self.shape = EncoderShape.of(self.config)
        self.eager = self.transformers(Precision(self.half, 0).dtype)

    def transformers(self, dtype: torch.dtype) -> Any:
        """Load the model with transformers."""
        load: Any = AutoModelForSequenceClassification.from_pretrained
        return load(self.folder, local_files_only=True, dtype=dtype).eval().to(self.device)

    @cached_property
    def compiled(self) -> Any:
        """Return the model of transformers with compiled layers, which takes seconds; the whole model takes minutes."""
        model = self.transformers(Precision(self.half, 0).dtype)
        for layer in model.bert.encoder.layer:
            layer.compile(dynamic=True)
        return model


def measure(name: str, until: float, keep: Keep, device: torch.device) -> None:
    """Measure a model of MODELS part by part; parts that would begin after `until` (time.time) are left out."""
    results: Row = {"model": name, "speed": [], "latency": [], "left_out": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        began = time.perf_counter()
        model = GpuModel(*MODELS[name], device, Path(scratch), compile_peer=name in COMPILED_PEER)
        results["load_s"] = time.perf_counter() - began
        results["engines"] = {precision: engine_facts(predictor) for precision, predictor in model.predictors.items()}
        results["shape"] = vars(model.shape)
        parts: dict[str, Callable[[], None]] = {
            "latency": lambda: results["latency"].extend(latency(model)),
            "kernels": lambda: results.update(kernels=kernels(model)),
            "budgets": lambda: results.update(budgets=budgets(model)),
            "speed, squad": lambda: results["speed"].append(speed(model, "squad")),
            "agreement": lambda: results.update(agreement=agreement(model)),
            "speed, short": lambda: results["speed"].append(speed(model, "short")),
            "speed, mixed": lambda: results["speed"].append(speed(model, "mixed")),
        }
        for part, run in parts.items():
            if time.time() > until:
                results["left_out"].append(f"{name}: {part}, for lack of time")
            else:
                try:
                    run()
                except Exception as error:  # noqa: BLE001 - the other parts are still measured
                    results["left_out"].append(f"{name}: {part}, {_reason(error)}")
            keep(results)


def engine_facts(predictor: Predictor) -> Row:
    """Describe the configuration of an engine."""
    engine: Any = predictor.engine
    layers = getattr(engine.model.base_model.encoder, "layers", [None])
    add_norm = getattr(layers[0], "add_norm", None)  # which differs by precision, and where operators are compiled
    return {
        "max_batch_tokens": engine.max_batch_tokens,
        "packed": engine.packed,
        "layer": getattr(add_norm, "__name__", type(add_norm).__name__),
        "graphs": len(getattr(engine, "graphs", ())),
    }


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(model: GpuModel, mix: str) -> Row:
    """Run engines, peers and matrix products interleaved on texts of one distribution of lengths."""
    lengths = mixes()[mix]
    encodings, device = random_encodings(model.config, lengths), model.device
    peers, left_out = transformers_peers(model, encodings)
    runs: dict[str, Run] = {
        f"engine {name}": partial(predictor.engine.run, encodings) for name, predictor in model.predictors.items()
    }
    runs |= peers
    flops, work = {}, model.shape.computed_flops(lengths)
    for name, predictor in model.predictors.items():
        tokens = min(sum(lengths), predictor.engine.max_batch_tokens)
        roof, cube = roofline(model.shape, tokens, name, device), square(name, device)
        if roof is not None:
            flops[f"own products {name}"] = model.shape.layer_flops(tokens)
            runs[f"own products {name}"] = roof
        if cube is not None:
            flops[f"peak {name}"], runs[f"peak {name}"] = cube
    repeated = {name: max(1, round(work / 3 / one_run)) for name, one_run in flops.items()}  # a third of the work
    runs |= {name: partial(_repeat, runs[name], times) for name, times in repeated.items()}
    timings = interleave(runs, device, SECONDS)
    roofs = {name: flops[name] * repeated[name] / timings[name].median / 1e12 for name in flops}
    nominal = model.shape.flops(lengths)
    rows = [
        speed_row(name, timings[name], work if name.startswith("engine") else nominal, lengths, roofs)
        for name in runs
        if name not in flops
    ]
    return {
        "mix": mix,
        "texts": len(lengths),
        "tokens": sum(lengths),
        "rows": rows,
        "roofs": roofs,
        "left_out": left_out,
    }


def speed_row(name: str, timings: Timings, work: int, lengths: Sequence[int], roofs: dict[str, float]) -> Row:
    """Convert times to rates, and those of an engine to fractions of the rooflines of its precision."""
    tflops = work / timings.median / 1e12
    row = {"name": name, "times": timings.to_json(), "tflops": tflops}
    row |= {"texts_per_s": len(lengths) / timings.median, "tokens_per_s": sum(lengths) / timings.median}
    precision = name.removeprefix("engine ")
    for key, roof in (("of_own_products", f"own products {precision}"), ("of_peak", f"peak {precision}")):
        row[key] = tflops / roofs[roof] if roof in roofs else None
    return row


def transformers_peers(model: GpuModel, encodings: Sequence[Encoding]) -> tuple[dict[str, Run], list[str]]:
    """Return transformers in input order, sorted by length, and sorted and compiled, each with its faster batch size.

    Their batches are on the GPU before the measurement; the engine builds its own within it.
    """
    runs: dict[str, Run] = {}
    left_out: list[str] = []
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        f"transformers {model.half}, as they come": ("eager", {"in_order": False}),
        f"transformers {model.half}, sorted": ("eager", {"in_order": True}),
        f"transformers {model.half}, sorted, torch.compile": ("compiled", {"in_order": True, "multiple": 32}),
    }
    for name, (attribute, how) in ways.items():
        if attribute == "compiled" and not model.compile_peer:
            continue
        try:
            runs[name] = fastest(getattr(model, attribute), encodings, model.device, how)
        except Exception as error:  # noqa: BLE001 - a peer that fails is reported
            left_out.append(f"{name}: {_reason(error)}")
    return runs, left_out


def fastest(model: Any, encodings: Sequence[Encoding], device: torch.device, how: dict[str, Any]) -> Run:
    """Return a run with the fastest batch size."""
    runs: list[Run] = [partial(padded, model, batches(encodings, size, device, **how)) for size in SIZES]
    for run in runs:
        run()
    return min(runs, key=lambda run: min(timed(run, device) for _ in "12"))


def batches(
    encodings: Sequence[Encoding], size: int, device: torch.device, *, in_order: bool, multiple: int = 1
) -> list[dict[str, Tensor]]:
    """Pad batches of `size` texts to the longest, rounded up to a multiple, and copy them to the GPU."""
    ordered = sorted(encodings, key=len) if in_order else list(encodings)
    padded_batches = []
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        width = -(-max(map(len, batch)) // multiple) * multiple
        ids = torch.tensor([encoding.ids + [0] * (width - len(encoding)) for encoding in batch])
        mask = torch.arange(width) < torch.tensor([len(encoding) for encoding in batch])[:, None]
        padded_batches.append({"input_ids": ids.to(device), "attention_mask": mask.long().to(device)})
    return padded_batches


@torch.inference_mode()
def padded(model: Any, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return the logits of all batches, with one synchronization."""
    return torch.cat([model(**batch).logits for batch in batches]).float().cpu()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:300]}"


def _repeat(run: Run, times: int) -> None:
    for _ in range(times):
        run()


# --- the engine by itself --------------------------------------------------------------------------------------------


def latency(model: GpuModel) -> list[Row]:
    """Measure the latency of calls with a few short texts."""
    rows = []
    for n in LATENCY_TEXTS:
        encodings = random_encodings(model.config, SHORT.draw(round(n * SHORT.mean))[:n])
        runs: dict[str, Run] = {
            f"engine {name}": partial(predictor.engine.run, encodings) for name, predictor in model.predictors.items()
        }
        batch = batches(encodings, n, model.device, in_order=False)
        runs[f"transformers {model.half}"] = partial(padded, model.eager, batch)
        for name, run in runs.items():
            _repeat(run, 5)
            ms = [1e3 * timed(run, model.device) for _ in range(TIMES)]
            rows.append(
                {"texts": n, "name": name, **{f"p{percent}": quantile(ms, percent / 100) for percent in (50, 99)}}
            )
    return rows


def budgets(model: GpuModel) -> list[Row]:
    """Measure token budgets on lengths like SQuAD; `chosen` marks the engine's own."""
    encodings, rows = random_encodings(model.config, SQUAD.draw(TOKENS)), []
    tokens = sum(map(len, encodings))
    for name, predictor in model.predictors.items():
        chosen = predictor.engine.max_batch_tokens
        for budget in memory.BUDGETS:
            predictor.engine.max_batch_tokens = budget
            seconds = min(timed(partial(predictor.engine.run, encodings), model.device) for _ in "123")
            rows.append({"name": name, "budget": budget, "tokens_per_s": tokens / seconds, "chosen": budget == chosen})
        predictor.engine.max_batch_tokens = chosen
    return rows


def agreement(model: GpuModel) -> list[Row]:
    """Compare scores with transformers in fp32, and each text alone with the same text in a batch."""
    encodings = random_encodings(model.config, SQUAD.draw(12_000) + SHORT.draw(1_000))
    exact = model.transformers(torch.float32)
    expected = softmax(
        torch.cat([padded(exact, batches([encoding], 1, model.device, in_order=False)) for encoding in encodings])
    )
    del exact
    rows = []
    for name, predictor in model.predictors.items():
        batched = scores(predictor, encodings)
        alone = torch.cat([scores(predictor, [encoding]) for encoding in encodings])
        rows.append(
            {
                "name": name,
                "texts": len(encodings),
                "same_label": float((batched.argmax(-1) == expected.argmax(-1)).float().mean()),
                "largest_difference": float((batched - expected).abs().max()),
                "mean_difference": float((batched - expected).abs().mean()),
                "composition": float((batched - alone).abs().max()),
            }
        )
    return rows


def scores(predictor: Predictor, encodings: Sequence[Encoding]) -> Tensor:
    """Return the scores of every label, (texts, labels)."""
    return softmax(torch.from_numpy(np.concatenate([np.asarray(output) for output in predictor.engine.run(encodings)])))


def softmax(logits: Tensor) -> Tensor:
    """Return probabilities."""
    return logits.float().softmax(-1)


def kernels(model: GpuModel) -> list[Row]:
    """Return the GPU time of each kind of kernel, on lengths like SQuAD, and how long the GPU was busy."""
    encodings, rows = random_encodings(model.config, SQUAD.draw(TOKENS)), []
    for name, predictor in model.predictors.items():
        predictor.engine.run(encodings)
        wall = timed(partial(predictor.engine.run, encodings), model.device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            predictor.engine.run(encodings)
            torch.cuda.synchronize(model.device)
        times: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        for event in profile.key_averages():
            if not getattr(event, "is_user_annotation", False):  # a region, whose kernels are counted by themselves
                times[kernel_kind(event.key)] += event.self_device_time_total / 1e6
                seconds[event.key] += event.self_device_time_total / 1e6
        busy = sum(times.values())
        largest = [{"kernel": kernel, "seconds": spent} for kernel, spent in seconds.most_common(LARGEST_KERNELS)]
        rows.append(
            {"name": name, "wall_s": wall, "busy_s": busy, "kinds": dict(times.most_common()), "largest": largest}
        )
    return rows


def kernel_kind(kernel: str) -> str:
    """Return the kind of a kernel by its name.

    >>> kernel_kind("void flash_fwd_kernel<...>"), kernel_kind("triton_red_fused_add_native_layer_norm_0")
    ('attention', 'fused steps')
    >>> kernel_kind("flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, cutlass::bfloat16_t>>")
    'attention'
    >>> kernel_kind("GeluCUDAKernelImpl"), kernel_kind("elementwise_kernel")
    ('activation', 'the rest')
    """
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "the rest")
