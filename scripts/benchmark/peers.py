"""Part 3: other implementations on the same texts and weights, from texts to labels, each with its best settings."""

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
from scripts.benchmark.flops import padded_tokens
from scripts.benchmark.measure import interleave, timed
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.statistics import Timings
from scripts.benchmark.texts import SOURCES, Mix, read_texts, short_texts
from scripts.cli.console import say

Labels = NDArray[np.intp]
Labeler = Callable[[Sequence[str], int], Labels]  # texts and the size of a micro-batch -> the index of each label
FIXED = (128, 512)  # tokens that users of the official handler pad to
GRID = (1, 2, 4, 8, 16, 32)  # sizes of a micro-batch
RETRY_FACTOR = 3.0  # a size whose first run is slower than this times the best is not tried again
REFERENCE = "packed fp32"


@dataclass(frozen=True)
class Peer:
    """One implementation that labels texts: another library, or this package (`ours`)."""

    name: str
    label: Labeler
    ours: bool = False  # plans its batches itself, without a micro-batch size
    max_texts: int | None = None  # texts that are measured; the time is scaled, where cost is linear in them


class PeerTokenizer:
    """A tokenizer of transformers, and texts as arrays of micro-batches."""

    def __init__(self, model: BenchmarkModel) -> None:
        load: Any = transformers.AutoTokenizer.from_pretrained
        self.tokenizer = load(model.model_folder, local_files_only=True)
        self.max_length = model.tokenizer.max_length

    def batches(
        self, texts: Sequence[str], size: int, *, in_order: bool = True, to: int | None = None
    ) -> list[tuple[list[int], exported.Arrays]]:
        """Tokenize all texts in one call; return indices and arrays of micro-batches, padded to the longest or `to`."""
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row])) if in_order else list(range(len(ids)))
        batches = []
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            width = to or max(len(ids[index]) for index in indices)
            input_ids = np.full((len(indices), width), self.tokenizer.pad_token_id or 0, np.int64)
            mask = np.zeros((len(indices), width), np.int64)
            for row, index in enumerate(indices):
                input_ids[row, : len(ids[index])] = ids[index]
                mask[row, : len(ids[index])] = 1
            arrays = dict(zip(exported.INPUTS, (input_ids, mask, np.zeros_like(mask)), strict=True))
            batches.append((indices, arrays))
        return batches

    def label(self, logits: Callable[[exported.Arrays], Any], texts: Sequence[str], size: int, **how: Any) -> Labels:
        """Label texts with a function from arrays to logits."""
        labels = np.empty(len(texts), np.intp)
        for indices, arrays in self.batches(texts, size, **how):
            labels[indices] = np.asarray(logits(arrays)).argmax(-1)
        return labels


def installed_peers(
    model: BenchmarkModel, loaded: dict[str, Predictor], device: torch.device
) -> tuple[list[Peer], list[str]]:
    """Return this package at every precision and the peers that are installed; and reasons for the others."""
    peers = [
        Peer(f"packed {precision}", partial(_packed, model, predictor), ours=True)
        for precision, predictor in loaded.items()
    ]
    tokenizer = PeerTokenizer(model)
    load: Any = transformers.AutoModelForSequenceClassification.from_pretrained
    classifier = load(model.model_folder, local_files_only=True).eval().to(device)
    logits = partial(_logits, classifier, device)
    pipe: Any = transformers.pipeline(
        "text-classification", model=classifier, tokenizer=tokenizer.tokenizer, device=device
    )
    peers += [
        Peer("padded to 128 or 512, as the official handler", partial(_fixed, tokenizer, logits), max_texts=8),
        Peer("pipeline, padded to the longest", partial(_pipeline, pipe, dict(classifier.config.label2id))),
        Peer("sorted, padded to the longest", partial(tokenizer.label, logits)),
    ]
    skipped = [reason for reason in map(machine.missing, ("onnxruntime", "openvino")) if reason]
    if device.type == "cpu":
        threads = torch.get_num_threads()
        if not machine.missing("onnxruntime"):
            peers += _onnxruntime(model, tokenizer, threads)
        if not machine.missing("openvino"):
            peers += _openvino(model, tokenizer, threads)
    return peers, skipped


def _onnxruntime(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    say(f"peers {model.name}: exporting to ONNX")
    fp32 = exported.to_onnx(model.model_folder, model.scratch / "model.onnx")
    int8 = exported.to_dynamic_int8(fp32, model.scratch / "int8.onnx")
    peers = []
    for name, path in (("ONNX Runtime fp32", fp32), ("ONNX Runtime dynamic int8", int8)):
        session = exported.onnx_session(path, threads)
        peers.append(Peer(name, partial(tokenizer.label, partial(_session, session))))
    return peers


def _openvino(model: BenchmarkModel, tokenizer: PeerTokenizer, threads: int) -> list[Peer]:
    say(f"peers {model.name}: converting to OpenVINO and calibrating int8")
    fp32 = exported.to_openvino(model.model_folder)
    calibration = short_texts(read_texts(SOURCES[0]), 96, seed=1)
    int8 = exported.to_static_int8(fp32, [arrays for _, arrays in tokenizer.batches(calibration, 1)])
    peers = []
    for name, graph in (("OpenVINO as it comes", fp32), ("OpenVINO + NNCF static int8", int8)):
        compiled = exported.openvino_compiled(graph, threads)
        peers.append(Peer(name, partial(tokenizer.label, partial(_compiled, compiled))))
    return peers


def measure(
    model: BenchmarkModel, peers: Sequence[Peer], mix: Mix, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Find the best micro-batch size of each peer, then run all of them interleaved."""
    sizes = {peer.name: best_size(peer, mix, device) for peer in peers}
    runs = {peer.name: partial(peer.label, mix.texts[: peer.max_texts], sizes[peer.name]) for peer in peers}
    timings = interleave(runs, device, seconds, min_rounds=3)
    for peer in peers:
        scale = len(mix.texts) / len(mix.texts[: peer.max_texts])
        timings[peer.name] = Timings(tuple(scale * seconds for seconds in timings[peer.name].seconds))
    rows = []
    for peer in peers:
        times = timings[peer.name]
        ratios = ratios_to(timings[REFERENCE], times) if REFERENCE in timings else Timings((float("nan"),))
        rows.append(
            {
                "name": peer.name,
                "ours": peer.ours,
                "times": times.to_json(),
                "setting": setting(peer, sizes[peer.name], mix),
                "texts_per_s": len(mix.texts) / times.median,
                "tokens_per_s": mix.tokens / times.median,
                "ratio": ratios.median,
                "ratio_spread": list(ratios.quartiles),
            }
        )
        say(f"peers {model.name} {mix.name}: {peer.name} {rows[-1]['texts_per_s']:.1f} texts/s")
    return {
        "model": model.name,
        "mix": mix.name,
        "texts": len(mix.texts),
        "tokens": mix.tokens,
        "padding": padding(mix),
        "contenders": rows,
    }


def setting(peer: Peer, size: int, mix: Mix) -> str:
    """Describe how a peer was run."""
    if peer.ours:
        return "its own plan"
    part = len(mix.texts[: peer.max_texts])
    return f"{size} texts" + (f", times {len(mix.texts) / part:g}" if part < len(mix.texts) else "")


def best_size(peer: Peer, mix: Mix, device: torch.device) -> int:
    """Return the micro-batch size with the fastest single run: all sizes run once, those near the best three times.

    The minimum, not the median: a disturbance only makes a run slower. All sizes: a search that stopped at the first
    slower size stopped at 1 on a busy machine, where an undisturbed one found 16 (2026-11-24).
    """
    texts = mix.texts[: peer.max_texts]
    if peer.ours:
        return len(texts)
    runs = {size: partial(peer.label, texts, size) for size in sorted({min(size, len(texts)) for size in GRID})}
    times = {size: timed(run, device) for size, run in runs.items()}
    for _ in "23":
        best = min(times.values())
        for size, run in runs.items():
            if times[size] <= RETRY_FACTOR * best:
                times[size] = min(times[size], timed(run, device))
    return min(times, key=lambda size: times[size])


def ratios_to(reference: Timings, timings: Timings) -> Timings:
    """Return the speed-up over the reference in each round.

    >>> ratios_to(Timings((2.0, 6.0)), Timings((1.0, 2.0))).seconds
    (2.0, 3.0)
    """
    pairs = zip(reference.seconds, timings.seconds, strict=True)
    return Timings(tuple(reference_s / seconds for reference_s, seconds in pairs))


def padding(mix: Mix) -> dict[str, float]:
    """Return the computed tokens per real token, for three ways to pad."""
    return {
        "fixed": padded_tokens(mix.lengths, to=fixed_length(max(mix.lengths))) / mix.tokens,
        "longest": padded_tokens(mix.lengths) / mix.tokens,
        "sorted": padded_tokens(mix.lengths, batch=8, in_order=True) / mix.tokens,
    }


def fixed_length(longest: int) -> int:
    """Return the length that a user of the official handler would set for texts up to `longest`."""
    return next((length for length in FIXED if length >= longest), FIXED[-1])


@torch.inference_mode()
def _logits(classifier: Any, device: torch.device, arrays: exported.Arrays) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = (
        classifier(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()}).logits.cpu().numpy()
    )
    return logits


def _fixed(
    tokenizer: PeerTokenizer, logits: Callable[[exported.Arrays], Any], texts: Sequence[str], size: int
) -> Labels:
    longest = max(arrays["input_ids"].shape[1] for _, arrays in tokenizer.batches(texts, len(texts)))
    return tokenizer.label(logits, texts, size, in_order=False, to=fixed_length(longest))


def _packed(model: BenchmarkModel, predictor: Predictor, texts: Sequence[str], _: int) -> Labels:
    outputs = predictor.engine.run(model.encode(texts))
    return np.array([np.asarray(output).reshape(-1).argmax() for output in outputs], np.intp)


def _pipeline(pipe: Any, label_ids: dict[str, int], texts: Sequence[str], size: int) -> Labels:
    answers = pipe(list(texts), batch_size=size, truncation=True)
    return np.array([label_ids[answer["label"]] for answer in answers], np.intp)


def _session(session: Any, arrays: exported.Arrays) -> Any:
    inputs = {port.name for port in session.get_inputs()}
    return session.run(None, {name: array for name, array in arrays.items() if name in inputs})[0]


def _compiled(compiled: Any, arrays: exported.Arrays) -> Any:
    return compiled(arrays)[0]
