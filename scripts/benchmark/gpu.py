"""One model on a GPU: the engine against its matrix products, against transformers, and by itself.

Needs PyTorch and transformers, nothing else. Lengths are drawn as those of real texts are distributed, tokens are
random; every sequence differs from every other, for equal ones would be computed once.
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
from handler.engine.precision import DTYPES, supported
from handler.engine.probe import random_encodings
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from scripts.benchmark.arithmetic import Sample, Shape, quantile
from scripts.benchmark.measure import Run, interleave, timed
from scripts.benchmark.roofline import roofline, square
from scripts.benchmark.synthetic import random_bert, word_tokenizer

Row = dict[str, Any]
Keep = Callable[[Row], None]

MODELS = {"bert-large": (24, 1024), "bert-base": (12, 768), "small": (6, 384)}  # layers and width
TOKENS = 131_072  # of one measurement
SIZES = (128, 512)  # texts of a peer's batch, of which the best is taken
SECONDS = 3.0  # of one comparison
FEW = (1, 8, 32)  # texts at once, whose latency is looked at
TIMES = 200  # each of them
KINDS = {  # of kernels, by words in their names; the first that fits
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma"),
    "attention": ("flash", "fmha", "attention"),
    "fused steps": ("triton",),
    "copies": ("memcpy", "memset"),
}


@dataclass(frozen=True)
class Lengths:
    """How tokens of texts are distributed: log-normal, between two ends."""

    mean: float
    sigma: float
    least: int
    most: int

    def draw(self, tokens: int) -> list[int]:
        """Return as many lengths as come to `tokens`, in disorder, the same ones every time.

        >>> drawn = Lengths(177, 0.45, 24, 384).draw(100_000)
        >>> 0.97 < statistics.mean(drawn) / 177 < 1.03, min(drawn) >= 24, max(drawn) <= 384
        (True, True, True)
        """
        count = max(1, round(tokens / self.mean))
        normal = statistics.NormalDist(log(self.mean) - self.sigma**2 / 2, self.sigma)
        drawn = [exp(normal.inv_cdf((place + 0.5) / count)) for place in range(count)]
        lengths = [min(self.most, max(self.least, round(length))) for length in drawn]
        random.Random(0).shuffle(lengths)  # noqa: S311 - reproducible
        return lengths


SQUAD = Lengths(177, 0.45, 24, 384)  # question and context, as BERT's own script cuts them
SHORT = Lengths(15, 0.45, 4, 64)  # a question, a tweet, an intent


def mixes() -> dict[str, list[int]]:
    """Return lengths by name: like SQuAD's, short, and half of the tokens of each."""
    both = SQUAD.draw(TOKENS // 2) + SHORT.draw(TOKENS // 2)
    random.Random(0).shuffle(both)  # noqa: S311 - reproducible
    return {"squad": SQUAD.draw(TOKENS), "short": SHORT.draw(TOKENS), "mixed": both}


class Subject:
    """One random model, loaded at every precision that this GPU does well."""

    def __init__(self, layers: int, width: int, device: torch.device, scratch: Path) -> None:
        self.device, self.folder = device, random_bert(scratch / "model", layers, width, word_tokenizer())
        self.half = supported(device)[0]
        self.predictors: dict[str, Predictor] = {}
        for precision in [self.half, *(["fp8"] if fp8.supported(device) else [])]:
            config = ServingConfig(precision=precision)  # type: ignore[arg-type]
            self.predictors[precision] = load_predictor(self.folder, config, device)
        self.config = self.predictors[self.half].engine.model.config
        self.shape = Shape.of(self.config)
        self.theirs = self.transformers(DTYPES[self.half])

    def transformers(self, dtype: torch.dtype) -> Any:
        """Load the model as transformers does."""
        load: Any = AutoModelForSequenceClassification.from_pretrained
        return load(self.folder, local_files_only=True, dtype=dtype).eval().to(self.device)

    @cached_property
    def compiled(self) -> Any:
        """Return the model as transformers has it, every layer compiled: in seconds, where the whole takes minutes."""
        model = self.transformers(DTYPES[self.half])
        for layer in model.bert.encoder.layer:
            layer.compile(dynamic=True)
        return model


def measure(name: str, until: float, keep: Keep, device: torch.device) -> None:
    """Measure a model of MODELS part by part; what does not begin before `until`, on time.time, is left out."""
    found: Row = {"model": name, "speed": [], "latency": [], "left_out": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        began = time.perf_counter()
        subject = Subject(*MODELS[name], device, Path(scratch))
        found["load_s"] = time.perf_counter() - began
        found["engines"] = {precision: engine_facts(its) for precision, its in subject.predictors.items()}
        found["shape"] = vars(subject.shape)
        parts: dict[str, Callable[[], None]] = {
            "latency": lambda: found["latency"].extend(latency(subject)),
            "speed, squad": lambda: found["speed"].append(speed(subject, "squad")),
            "kernels": lambda: found.update(kernels=kernels(subject)),
            "agreement": lambda: found.update(agreement=agreement(subject)),
            "budgets": lambda: found.update(budgets=budgets(subject)),
            "speed, short": lambda: found["speed"].append(speed(subject, "short")),
            "speed, mixed": lambda: found["speed"].append(speed(subject, "mixed")),
        }
        for part, run in parts.items():
            if time.time() > until:
                found["left_out"].append(f"{name}: {part}, for lack of time")
            else:
                try:
                    run()
                except Exception as error:  # noqa: BLE001 - one part must not cost the others
                    found["left_out"].append(f"{name}: {part}, {_said(error)}")
            keep(found)


def engine_facts(predictor: Predictor) -> Row:
    """Tell what of the engine is in use."""
    engine: Any = predictor.engine
    layers = getattr(engine.model.base_model.encoder, "layers", [None])
    return {
        "max_batch_tokens": engine.max_batch_tokens,
        "packed": engine.packed,
        "layer": type(layers[0]).__name__,
        "graphs": len(getattr(engine, "_graphs", ())),
    }


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(subject: Subject, mix: str) -> Row:
    """Run engines, peers and matrix products in turn on texts of some lengths."""
    lengths = mixes()[mix]
    encodings, device = random_encodings(subject.config, lengths), subject.device
    peers, left_out = contenders(subject, encodings)
    runs: dict[str, Run] = {
        f"engine {name}": partial(its.engine.run, encodings) for name, its in subject.predictors.items()
    }
    runs |= peers
    flops, work = {}, subject.shape.flops(lengths)
    for name, predictor in subject.predictors.items():
        tokens = min(sum(lengths), predictor.engine.max_batch_tokens)
        roof, cube = roofline(subject.shape, tokens, name, device), square(name, device)
        if roof is not None:
            flops[f"own products {name}"] = subject.shape.layer_flops(tokens)
            runs[f"own products {name}"] = roof
        if cube is not None:
            flops[f"peak {name}"], runs[f"peak {name}"] = cube
    repeated = {name: max(1, round(work / 3 / its)) for name, its in flops.items()}  # as long as a third of the work
    runs |= {name: partial(_repeat, runs[name], times) for name, times in repeated.items()}
    samples = interleave(runs, device, SECONDS)
    roofs = {name: flops[name] * repeated[name] / samples[name].median / 1e12 for name in flops}
    rows = [told(name, samples[name], work, lengths, roofs) for name in runs if name not in flops]
    return {
        "mix": mix,
        "texts": len(lengths),
        "tokens": sum(lengths),
        "rows": rows,
        "roofs": roofs,
        "left_out": left_out,
    }


def told(name: str, sample: Sample, work: int, lengths: Sequence[int], roofs: dict[str, float]) -> Row:
    """Turn times into rates, and an engine's into parts of what the same precision could do."""
    tflops = work / sample.median / 1e12
    row = {"name": name, "times": sample.to_json(), "tflops": tflops}
    row |= {"texts_per_s": len(lengths) / sample.median, "tokens_per_s": sum(lengths) / sample.median}
    precision = name.removeprefix("engine ")
    for key, roof in (("of_own_products", f"own products {precision}"), ("of_peak", f"peak {precision}")):
        row[key] = tflops / roofs[roof] if roof in roofs else None
    return row


def contenders(subject: Subject, encodings: Sequence[Encoding]) -> tuple[dict[str, Run], list[str]]:
    """Return transformers padded as texts come, sorted by length, and sorted and compiled, each with its best batch.

    Their batches lie on the GPU beforehand; the engine lays out its own while the clock runs.
    """
    found: dict[str, Run] = {}
    left_out: list[str] = []
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        f"transformers {subject.half}, as they come": ("theirs", {"in_order": False}),
        f"transformers {subject.half}, sorted": ("theirs", {"in_order": True}),
        f"transformers {subject.half}, sorted, torch.compile": ("compiled", {"in_order": True, "multiple": 32}),
    }
    for name, (model, how) in ways.items():
        try:
            found[name] = best(getattr(subject, model), encodings, subject.device, how)
        except Exception as error:  # noqa: BLE001 - a peer that fails is told as such
            left_out.append(f"{name}: {_said(error)}")
    return found, left_out


def best(model: Any, encodings: Sequence[Encoding], device: torch.device, how: dict[str, Any]) -> Run:
    """Return a run with the size of batch that was quickest."""
    runs: list[Run] = [partial(padded, model, batches(encodings, size, device, **how)) for size in SIZES]
    for run in runs:
        run()
    return min(runs, key=lambda run: min(timed(run, device) for _ in "12"))


def batches(
    encodings: Sequence[Encoding], size: int, device: torch.device, *, in_order: bool, multiple: int = 1
) -> list[dict[str, Tensor]]:
    """Pad batches of `size` texts to the longest, rounded up to a multiple, and put them on the GPU."""
    rows = sorted(encodings, key=len) if in_order else list(encodings)
    found = []
    for start in range(0, len(rows), size):
        its = rows[start : start + size]
        width = -(-max(map(len, its)) // multiple) * multiple
        ids = torch.tensor([row.ids + [0] * (width - len(row)) for row in its])
        mask = torch.arange(width) < torch.tensor([len(row) for row in its])[:, None]
        found.append({"input_ids": ids.to(device), "attention_mask": mask.long().to(device)})
    return found


@torch.inference_mode()
def padded(model: Any, its: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return the logits of every batch, waited for once."""
    return torch.cat([model(**batch).logits for batch in its]).float().cpu()


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:300]}"


def _repeat(run: Run, times: int) -> None:
    for _ in range(times):
        run()


# --- the engine by itself --------------------------------------------------------------------------------------------


def latency(subject: Subject) -> list[Row]:
    """Time a few short texts at once, again and again."""
    rows = []
    for n in FEW:
        encodings = random_encodings(subject.config, SHORT.draw(round(n * SHORT.mean))[:n])
        runs: dict[str, Run] = {
            f"engine {name}": partial(its.engine.run, encodings) for name, its in subject.predictors.items()
        }
        one = batches(encodings, n, subject.device, in_order=False)
        runs[f"transformers {subject.half}"] = partial(padded, subject.theirs, one)
        for name, run in runs.items():
            _repeat(run, 5)
            ms = [1e3 * timed(run, subject.device) for _ in range(TIMES)]
            rows.append({"texts": n, "name": name, **{f"p{part}": quantile(ms, part / 100) for part in (50, 99)}})
    return rows


def budgets(subject: Subject) -> list[Row]:
    """Measure token budgets on lengths like SQuAD's; `null` tells what the engine chose."""
    encodings, rows = random_encodings(subject.config, SQUAD.draw(TOKENS)), []
    tokens = sum(map(len, encodings))
    for name, predictor in subject.predictors.items():
        chosen = predictor.engine.max_batch_tokens
        for budget in memory.BUDGETS:
            predictor.engine.max_batch_tokens = budget
            seconds = min(timed(partial(predictor.engine.run, encodings), subject.device) for _ in "123")
            rows.append({"name": name, "budget": budget, "tokens_per_s": tokens / seconds, "chosen": budget == chosen})
        predictor.engine.max_batch_tokens = chosen
    return rows


def agreement(subject: Subject) -> list[Row]:
    """Compare scores with those of transformers in fp32, and of every text alone with its own in a batch."""
    encodings = random_encodings(subject.config, SQUAD.draw(12_000) + SHORT.draw(1_000))
    exact = subject.transformers(torch.float32)
    expected = softmax(
        torch.cat([padded(exact, batches([its], 1, subject.device, in_order=False)) for its in encodings])
    )
    del exact
    rows = []
    for name, predictor in subject.predictors.items():
        found = scores(predictor, encodings)
        alone = torch.cat([scores(predictor, [its]) for its in encodings])
        rows.append(
            {
                "name": name,
                "texts": len(encodings),
                "same_label": float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
                "largest_difference": float((found - expected).abs().max()),
                "mean_difference": float((found - expected).abs().mean()),
                "company": float((found - alone).abs().max()),
            }
        )
    return rows


def scores(predictor: Predictor, encodings: Sequence[Encoding]) -> Tensor:
    """Return the scores of every label, (texts, labels)."""
    return softmax(torch.from_numpy(np.concatenate([np.asarray(row) for row in predictor.engine.run(encodings)])))


def softmax(logits: Tensor) -> Tensor:
    """Return probabilities."""
    return logits.float().softmax(-1)


def kernels(subject: Subject) -> list[Row]:
    """Tell where the GPU's time goes, on lengths like SQuAD's, and how much of the time it had nothing to do."""
    encodings, rows = random_encodings(subject.config, SQUAD.draw(TOKENS)), []
    for name, predictor in subject.predictors.items():
        predictor.engine.run(encodings)
        wall = timed(partial(predictor.engine.run, encodings), subject.device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            predictor.engine.run(encodings)
            torch.cuda.synchronize(subject.device)
        times: Counter[str] = Counter()
        for event in seen.key_averages():
            times[kernel_kind(event.key)] += event.self_device_time_total / 1e6
        busy = sum(times.values())
        rows.append({"name": name, "wall_s": wall, "busy_s": busy, "kinds": dict(times.most_common())})
    return rows


def kernel_kind(kernel: str) -> str:
    """Tell what a kernel is for by its name.

    >>> kernel_kind("void flash_fwd_kernel<...>"), kernel_kind("triton_red_fused_add_native_layer_norm_0")
    ('attention', 'fused steps')
    >>> kernel_kind("gelu")
    'the rest'
    """
    low = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "the rest")
