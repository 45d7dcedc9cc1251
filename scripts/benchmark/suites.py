"""All parts in order, each on every model; what is found is kept after each of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from handler.config import usable_cores
from handler.engine.weights import holds_floats
from handler.predictor import Predictor
from scripts.benchmark import accuracy, engine, load, machine, peers, scaling
from scripts.benchmark.load import Keep
from scripts.benchmark.models import Subject, default_names, subjects
from scripts.benchmark.texts import Mix, mixes
from scripts.cli.console import ScriptError, say


def measure(arguments: argparse.Namespace, stack: ExitStack, keep: Keep) -> dict[str, Any]:
    """Measure the parts of --only; `keep` is called with all results so far after each of them."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ScriptError("--device cuda: PyTorch sees no GPU here")
    arguments.threads = arguments.threads or usable_cores()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"about": machine.about(device) | {"skipped": []}}
    skipped: list[str] = results["about"]["skipped"]
    names = arguments.models or default_names()
    for subject in subjects(names, stack):
        results.setdefault("models", []).append(
            {"name": subject.name, "random": subject.is_random, **vars(subject.shape)}
        )
        loaded, reasons = engine.load(subject, device, arguments.precisions)
        skipped += reasons
        if not loaded:
            continue
        told = mixes(arguments.lengths_from, subject.count, arguments.mixes)
        if "engine" in arguments.only:
            rows = engine.measure(subject, loaded, told, arguments.seconds)
            results.setdefault("engine", []).extend(rows)
            keep(results)
        if "scaling" in arguments.only:
            rows = scaling.measure(subject, loaded, arguments.lengths_from, arguments.seconds / 2)
            results.setdefault("scaling", []).extend(rows)
            keep(results)
        if "peers" in arguments.only and not holds_floats(subject.model):
            skipped.append(f"{subject.name} has no weights that the peers could compute with: pack it with auto")
        elif "peers" in arguments.only:
            compare(subject, loaded, told, arguments, device, results, keep)
            keep(results)
        if {"offline", "server", "http-peers"} & set(arguments.only):
            load.measure(subject, loaded, arguments, results, keep)
    say(f"load of the machine while measuring: {machine.load()}")
    results["about"]["load_after"] = machine.load()
    keep(results)
    return results


def compare(
    subject: Subject,
    loaded: dict[str, Predictor],
    told: Sequence[Mix],
    arguments: argparse.Namespace,
    device: torch.device,
    results: dict[str, Any],
    keep: Keep,
) -> None:
    """Measure the peers on every distribution of lengths, and what fewer bits cost where labels mean something."""
    everybody, reasons = peers.contenders(subject, loaded, device)
    results["about"]["skipped"] += [reason for reason in reasons if reason not in results["about"]["skipped"]]
    for mix in told:
        rows = peers.measure(subject, everybody, mix, device, arguments.seconds)
        results.setdefault("peers", []).append(rows)
        keep(results)
    if not subject.is_random:
        found = accuracy.measure(subject, everybody, arguments.lengths_from)
        results.setdefault("accuracy", []).append(found)
