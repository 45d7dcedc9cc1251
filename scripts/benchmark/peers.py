"""Part 3: what others do with the same texts and the same weights, from texts to scores, each at its best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from handler.predictor import Predictor
from scripts.benchmark import exported, machine
from scripts.benchmark.arithmetic import Sample, padded_tokens
from scripts.benchmark.measure import interleave, timed
from scripts.benchmark.models import Subject
from scripts.benchmark.texts import SOURCES, Mix, read_texts, short_texts
from scripts.cli.console import say

Labels = NDArray[np.intp]
Answer = Callable[[Sequence[str], int], Labels]  # texts and the size of a micro-batch -> the index of each label
FIXED = (128, 512)  # tokens that the official handler's users pad to
GRID = (1, 2, 4, 8, 16, 32)
NEAR = 3.0  # times the best: what is slower than that at first is not tried again
REFERENCE = "packed fp32"


@dataclass(frozen=True)
class Contender:
    """Somebody who labels texts."""

    name: str
    answer: Answer
    ours: bool = False  # then it needs no size of a micro-batch
    most: int | None = None  # texts that are measured, where cost is linear in them and the whole would take minutes


class Rows:
    """A tokenizer as the peers have it, and texts in micro-batches as arrays."""

    def __init__(self, subject: Subject) -> None:
        load: Any = transformers.AutoTokenizer.from_pretrained
        self.tokenizer = load(subject.model, local_files_only=True)
        self.limit = subject.tokenizer.max_length

    def batches(
        self, texts: Sequence[str], size: int, *, in_order: bool = True, to: int | None = None
    ) -> list[tuple[list[int], exported.Arrays]]:
        """Tokenise all texts in one call; return places and arrays of micro-batches, padded to the longest or `to`."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.limit)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row])) if in_order else list(range(len(ids)))
        found = []
        for start in range(0, len(order), size):
            places = order[start : start + size]
            width = to or max(len(ids[place]) for place in places)
            words = np.full((len(places), width), self.tokenizer.pad_token_id or 0, np.int64)
            mask = np.zeros((len(places), width), np.int64)
            for row, place in enumerate(places):
                words[row, : len(ids[place])] = ids[place]
                mask[row, : len(ids[place])] = 1
            found.append((places, dict(zip(exported.INPUTS, (words, mask, np.zeros_like(mask)), strict=True))))
        return found

    def answer(self, run: Callable[[exported.Arrays], Any], texts: Sequence[str], size: int, **how: Any) -> Labels:
        """Label texts with what turns arrays into logits."""
        labels = np.empty(len(texts), np.intp)
        for places, arrays in self.batches(texts, size, **how):
            labels[places] = np.asarray(run(arrays)).argmax(-1)
        return labels


def contenders(
    subject: Subject, loaded: dict[str, Predictor], device: torch.device
) -> tuple[list[Contender], list[str]]:
    """Return ourselves at every precision and whoever is installed; say who is not."""
    found = [
        Contender(f"packed {precision}", partial(_packed, subject, predictor), ours=True)
        for precision, predictor in loaded.items()
    ]
    rows = Rows(subject)
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    model = load(subject.model, local_files_only=True).eval().to(device)
    plain = partial(_logits, model, device)
    pipe: Any = transformers.pipeline("text-classification", model=model, tokenizer=rows.tokenizer, device=device)
    found += [
        Contender("padded to 128 or 512, as the official handler", partial(_fixed, rows, plain), most=8),
        Contender("pipeline, padded to the longest", partial(_pipeline, pipe, dict(model.config.label2id))),
        Contender("sorted, padded to the longest", partial(rows.answer, plain)),
    ]
    skipped = [reason for reason in map(machine.missing, ("onnxruntime", "openvino")) if reason]
    if device.type == "cpu":
        threads = torch.get_num_threads()
        if not machine.missing("onnxruntime"):
            found += _onnxruntime(subject, rows, threads)
        if not machine.missing("openvino"):
            found += _openvino(subject, rows, threads)
    return found, skipped


def _onnxruntime(subject: Subject, rows: Rows, threads: int) -> list[Contender]:
    say(f"peers {subject.name}: exporting to ONNX")
    plain = exported.to_onnx(subject.model, subject.scratch / "model.onnx")
    small = exported.to_dynamic_int8(plain, subject.scratch / "int8.onnx")
    found = []
    for name, path in (("ONNX Runtime fp32", plain), ("ONNX Runtime dynamic int8", small)):
        session = exported.onnx_session(path, threads)
        found.append(Contender(name, partial(rows.answer, partial(_session, session))))
    return found


def _openvino(subject: Subject, rows: Rows, threads: int) -> list[Contender]:
    say(f"peers {subject.name}: converting to OpenVINO and calibrating int8")
    plain = exported.to_openvino(subject.model)
    calibration = short_texts(read_texts(SOURCES[0]), 96, seed=1)
    small = exported.to_static_int8(plain, [arrays for _, arrays in rows.batches(calibration, 1)])
    found = []
    for name, model in (("OpenVINO as it comes", plain), ("OpenVINO + NNCF static int8", small)):
        compiled = exported.openvino_compiled(model, threads)
        found.append(Contender(name, partial(rows.answer, partial(_compiled, compiled))))
    return found


def measure(
    subject: Subject, everybody: Sequence[Contender], mix: Mix, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Find each peer's best micro-batch, then run all in turn."""
    sizes = {one.name: best_size(one, mix, device) for one in everybody}
    runs = {one.name: partial(one.answer, mix.texts[: one.most], sizes[one.name]) for one in everybody}
    samples = interleave(runs, device, seconds, least=3)
    for one in everybody:
        scale = len(mix.texts) / len(mix.texts[: one.most])
        samples[one.name] = Sample(tuple(scale * its for its in samples[one.name].seconds))
    rows = []
    for one in everybody:
        sample = samples[one.name]
        ratios = ratios_to(samples[REFERENCE], sample) if REFERENCE in samples else Sample((float("nan"),))
        rows.append(
            {
                "name": one.name,
                "ours": one.ours,
                "times": sample.to_json(),
                "setting": setting(one, sizes[one.name], mix),
                "texts_per_s": len(mix.texts) / sample.median,
                "tokens_per_s": mix.tokens / sample.median,
                "ratio": ratios.median,
                "ratio_spread": list(ratios.spread),
            }
        )
        say(f"peers {subject.name} {mix.name}: {one.name} {rows[-1]['texts_per_s']:.1f} texts/s")
    return {
        "model": subject.name,
        "mix": mix.name,
        "texts": len(mix.texts),
        "tokens": mix.tokens,
        "padding": padding(mix),
        "contenders": rows,
    }


def setting(contender: Contender, size: int, mix: Mix) -> str:
    """Say how a contender was run."""
    if contender.ours:
        return "its own plan"
    part = len(mix.texts[: contender.most])
    return f"{size} texts" + (f", times {len(mix.texts) / part:g}" if part < len(mix.texts) else "")


def best_size(contender: Contender, mix: Mix, device: torch.device) -> int:
    """Return the size of micro-batch whose quickest run was quickest: all sizes once, those that came near three times.

    The quickest, not the median: what disturbs a run only ever makes it slower. And all of them: a search that ends at
    the first slower size ended at 1 on a busy machine, where an undisturbed one found 16 (2026-11-24).
    """
    texts = mix.texts[: contender.most]
    if contender.ours:
        return len(texts)
    runs = {size: partial(contender.answer, texts, size) for size in sorted({min(size, len(texts)) for size in GRID})}
    times = {size: timed(run, device) for size, run in runs.items()}
    for _ in "23":
        best = min(times.values())
        for size, run in runs.items():
            if times[size] <= NEAR * best:
                times[size] = min(times[size], timed(run, device))
    return min(times, key=lambda size: times[size])


def ratios_to(reference: Sample, sample: Sample) -> Sample:
    """Return how many times faster than the reference each round was.

    >>> ratios_to(Sample((2.0, 6.0)), Sample((1.0, 2.0))).seconds
    (2.0, 3.0)
    """
    pairs = zip(reference.seconds, sample.seconds, strict=True)
    return Sample(tuple(one / other for one, other in pairs))


def padding(mix: Mix) -> dict[str, float]:
    """Return the tokens computed for one that is there, for three ways to pad."""
    return {
        "fixed": padded_tokens(mix.lengths, to=fixed_length(max(mix.lengths))) / mix.tokens,
        "longest": padded_tokens(mix.lengths) / mix.tokens,
        "sorted": padded_tokens(mix.lengths, batch=8, in_order=True) / mix.tokens,
    }


def fixed_length(longest: int) -> int:
    """Return the length that a user of the official handler would set for texts up to `longest`."""
    return next((length for length in FIXED if length >= longest), FIXED[-1])


@torch.inference_mode()
def _logits(model: Any, device: torch.device, arrays: exported.Arrays) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (
        model(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()}).logits.cpu().numpy()
    )
    return found


def _fixed(rows: Rows, run: Callable[[exported.Arrays], Any], texts: Sequence[str], size: int) -> Labels:
    longest = max(arrays["input_ids"].shape[1] for _, arrays in rows.batches(texts, len(texts)))
    return rows.answer(run, texts, size, in_order=False, to=fixed_length(longest))


def _packed(subject: Subject, predictor: Predictor, texts: Sequence[str], _: int) -> Labels:
    values = predictor.engine.run(subject.encode(texts))
    return np.array([np.asarray(row).reshape(-1).argmax() for row in values], np.intp)


def _pipeline(pipe: Any, numbers: dict[str, int], texts: Sequence[str], size: int) -> Labels:
    answers = pipe(list(texts), batch_size=size, truncation=True)
    return np.array([numbers[answer["label"]] for answer in answers], np.intp)


def _session(session: Any, arrays: exported.Arrays) -> Any:
    wanted = {port.name for port in session.get_inputs()}
    return session.run(None, {name: array for name, array in arrays.items() if name in wanted})[0]


def _compiled(compiled: Any, arrays: exported.Arrays) -> Any:
    return compiled(arrays)[0]
