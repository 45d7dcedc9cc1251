"""Part 3: other implementations on the same texts and weights, from texts to labels, each with its best settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from scripts.benchmark import exported
from scripts.benchmark.flops import padded_tokens
from scripts.benchmark.measure import interleave, timed
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.statistics import Timings
from scripts.benchmark.texts import Mix
from scripts.cli.console import say

Labels = NDArray[np.intp]
Labeler = Callable[[Sequence[str], int], Labels]  # texts and the size of a micro-batch -> the index of each label
Logits = Callable[[exported.Arrays], Any]  # arrays of one micro-batch -> (rows, labels)
Batch = tuple[list[int], exported.Arrays]  # indices of its texts
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
    streams: Labeler | None = None  # the same by streams of one thread each, a micro-batch in every one of them


@dataclass(frozen=True)
class BatchSetting:
    """How a peer runs fastest."""

    size: int  # texts of a micro-batch
    streams: bool = False


class PeerTokenizer:
    """A tokenizer of transformers, and texts as arrays of micro-batches."""

    def __init__(self, model: BenchmarkModel) -> None:
        load: Any = transformers.AutoTokenizer.from_pretrained
        self.tokenizer = load(model.model_folder, local_files_only=True)
        self.max_length = model.tokenizer.max_length

    def batches(self, texts: Sequence[str], size: int, *, in_order: bool = True, to: int | None = None) -> list[Batch]:
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

    def label(self, logits: Logits, texts: Sequence[str], size: int, **how: Any) -> Labels:
        """Label texts with a function from arrays to logits."""
        return self._label(map, logits, self.batches(texts, size, **how), len(texts))

    def label_in_streams(self, logits: Logits, pool: ThreadPoolExecutor, texts: Sequence[str], size: int) -> Labels:
        """Label texts with a function from arrays to logits that the threads of a pool call, longest texts first."""
        return self._label(pool.map, logits, self.batches(texts, size)[::-1], len(texts))

    @staticmethod
    def _label(each: Any, logits: Logits, batches: Sequence[Batch], n_texts: int) -> Labels:
        labels = np.empty(n_texts, np.intp)
        for (indices, _), rows in zip(batches, each(logits, [arrays for _, arrays in batches]), strict=True):
            labels[indices] = np.asarray(rows).argmax(-1)
        return labels


def measure(
    model: BenchmarkModel, peers: Sequence[Peer], mix: Mix, device: torch.device, seconds: float
) -> dict[str, Any]:
    """Find the best setting of each peer, then run all of them interleaved."""
    settings = {peer.name: best_setting(peer, mix, device) for peer in peers}
    runs = {peer.name: run_of(peer, settings[peer.name], mix) for peer in peers}
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
                "setting": describe(peer, settings[peer.name], mix),
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


def run_of(peer: Peer, setting: BatchSetting, mix: Mix) -> Callable[[], Labels]:
    """Return what labels the texts of a mix with a setting."""
    label = peer.streams if setting.streams and peer.streams else peer.label
    return partial(label, mix.texts[: peer.max_texts], setting.size)


def describe(peer: Peer, setting: BatchSetting, mix: Mix) -> str:
    """Describe how a peer was run."""
    if peer.ours:
        return "its own plan"
    part = len(mix.texts[: peer.max_texts])
    scaled = f", times {len(mix.texts) / part:g}" if part < len(mix.texts) else ""
    return f"{setting.size} texts" + (" a stream" if setting.streams else "") + scaled


def best_setting(peer: Peer, mix: Mix, device: torch.device) -> BatchSetting:
    """Return the setting with the fastest single run: all run once, those near the best three times.

    The minimum, not the median: a disturbance only makes a run slower. All sizes: a search that stopped at the first
    slower size stopped at 1 on a busy machine, where an undisturbed one found 16 (2026-11-24). Streams of one thread
    were 2.6 times as fast as one of two threads in CTranslate2, 1.6 times in ONNX Runtime, 1.1 times in OpenVINO, and
    slower where there were no more micro-batches than streams (2026-11-28).
    """
    n_texts = len(mix.texts[: peer.max_texts])
    if peer.ours:
        return BatchSetting(n_texts)
    ways = (False, True) if peer.streams else (False,)
    sizes = sorted({min(size, n_texts) for size in GRID})
    runs = {
        setting: run_of(peer, setting, mix) for setting in (BatchSetting(size, way) for way in ways for size in sizes)
    }
    times = {setting: timed(run, device) for setting, run in runs.items()}
    for _ in "23":
        best = min(times.values())
        for setting, run in runs.items():
            if times[setting] <= RETRY_FACTOR * best:
                times[setting] = min(times[setting], timed(run, device))
    return min(times, key=lambda setting: times[setting])


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
