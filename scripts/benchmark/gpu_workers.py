"""Throughput of several workers on one GPU, from request bodies to response bodies, without HTTP."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from handler.config import ServingConfig, usable_cores
from handler.loading import load_predictor
from handler.protocol import Body, serialize_value
from handler.request_state import Request
from scripts.benchmark.gpu import MODELS, SQUAD, LengthDistribution
from scripts.benchmark.synthetic import random_classifier, word_tokenizer

Row = dict[str, Any]

MODEL = "bert-base"
WORKERS = (1, 2)
BATCHES = ((256, 1), (64, 8), (32, 32))  # requests of a batch, texts of a request
SECONDS = 4.0
TIMEOUT_S = 45.0  # beyond which another worker has failed


def measure(device: torch.device, precision: str) -> list[Row]:
    """Answer batches of requests with one worker, and with several at the same time."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = random_classifier(Path(scratch) / "model", *MODELS[MODEL], word_tokenizer(), device=device)
        for n_workers in WORKERS:
            speeds_by_worker = fleet(folder, n_workers, device, precision)
            rows += [
                {"workers": n_workers, "requests": requests, "texts_a_request": texts, "texts_per_s": sum(speeds)}
                for (requests, texts), speeds in zip(BATCHES, zip(*speeds_by_worker, strict=True), strict=True)
            ]
    return rows


def fleet(folder: Path, n_workers: int, device: torch.device, precision: str) -> list[list[float]]:
    """Return the texts a second of every worker for each of BATCHES, measured at the same time."""
    context: Any = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(n_workers), context.Queue()
    threads = max(1, usable_cores() // n_workers)
    arguments = (folder, str(device), precision, threads, barrier, answers)
    workers = [context.Process(target=_worker, args=arguments, daemon=True) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    try:
        return [answers.get(timeout=TIMEOUT_S) for _ in workers]
    finally:
        for worker in workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.terminate()


def _worker(folder: Path, device: str, precision: Any, threads: int, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(threads)
    predictor = load_predictor(folder, ServingConfig(precision=precision), torch.device(device))
    speeds = []
    for requests, texts in BATCHES:
        batch = bodies(requests, texts, SQUAD)
        predictor.answer(batch)
        barrier.wait(timeout=TIMEOUT_S)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / len(BATCHES):
            predictor.answer(batch)
            done += requests * texts
        speeds.append(done / (time.perf_counter() - began))
    answers.put(speeds)


def bodies(requests: int, texts: int, lengths: LengthDistribution) -> list[Request]:
    """Return requests of synthetic texts, all different."""
    generator = random.Random(0)  # noqa: S311 - reproducible
    drawn = lengths.draw(round(requests * texts * lengths.mean))
    generated = [" ".join(f"w{generator.randrange(30_000)}" for _ in range(length - 2)) for length in drawn]
    groups = [generated[start : start + texts] for start in range(0, requests * texts, texts)]
    return [Request(Body(serialize_value({"inputs": group}), "application/json")) for group in groups]
