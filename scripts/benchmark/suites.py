"""All parts in order, each on every model; results are saved after each of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from handler.config import usable_cores
from handler.engine.int8_weights import has_float_weights
from handler.predictor import Predictor
from scripts.benchmark import accuracy, against, engine, libraries, machine, peers, scaling, serving, training
from scripts.benchmark.models import BenchmarkModel, benchmark_models, default_names
from scripts.benchmark.serving import Keep
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
    if arguments.only == ("training",) and not arguments.against:
        raise ScriptError("--only training compares two builds: name the other one by --against")
    if arguments.against:
        return compare_builds(arguments, device, stack, results, keep)
    names = arguments.models or default_names()
    for model in benchmark_models(names, stack):
        results.setdefault("models", []).append({"name": model.name, "random": model.is_random, **vars(model.shape)})
        loaded, reasons = engine.load(model, device, arguments.precisions)
        skipped += reasons
        if not loaded:
            continue
        chosen = mixes(arguments.lengths_from, model.count, arguments.mixes)
        if "engine" in arguments.only:
            rows = engine.measure(model, loaded, chosen, arguments.seconds, padded=arguments.padded)
            results.setdefault("engine", []).extend(rows)
            keep(results)
        if "scaling" in arguments.only:
            rows = scaling.measure(model, loaded, arguments.lengths_from, arguments.seconds / 2)
            results.setdefault("scaling", []).extend(rows)
            keep(results)
        if "peers" in arguments.only and not has_float_weights(model.model_folder):
            skipped.append(f"{model.name} has no weights that the peers could compute with: pack it with auto")
        elif "peers" in arguments.only:
            compare(model, loaded, chosen, arguments, device, results, keep)
            keep(results)
        if {"offline", "server", "http-peers"} & set(arguments.only):
            serving.measure(model, loaded, arguments, results, keep)
    say(f"load of the machine while measuring: {machine.load()}")
    results["about"]["load_after"] = machine.load()
    keep(results)
    return results


def compare_builds(
    arguments: argparse.Namespace, device: torch.device, stack: ExitStack, results: dict[str, Any], keep: Keep
) -> dict[str, Any]:
    """Measure this build and that of --against, interleaved."""
    if device.type != "cpu":
        raise ScriptError("--against compares on the CPU: leave out --device")
    other = against.checkout(arguments.against)
    if "training" in arguments.only:
        for folder in training.models(arguments.models):
            row = training.measure(folder, other, arguments.threads, arguments.seconds)
            results.setdefault("training", []).append(row)
            keep(results)
    if set(arguments.only) - {"training"}:
        compare_answers(arguments, device, other, stack, results, keep)
    results["about"]["load_after"] = machine.load()
    keep(results)
    return results


def compare_answers(
    arguments: argparse.Namespace,
    device: torch.device,
    other: against.Build,
    stack: ExitStack,
    results: dict[str, Any],
    keep: Keep,
) -> None:
    """Measure the engine, answers, the start and memory of both builds."""
    for model in benchmark_models(arguments.models or default_names(), stack):
        results.setdefault("models", []).append({"name": model.name, "random": model.is_random, **vars(model.shape)})
        mixes_of_model = mixes(arguments.lengths_from, model.count, arguments.mixes)
        for precision in arguments.precisions or model.precisions(device):
            try:
                row = against.measure(model, precision, mixes_of_model, other, arguments.threads, arguments.seconds)
            except ScriptError as error:
                results["about"]["skipped"].append(f"{model.name} at {precision} is skipped: {error}")
                continue
            results.setdefault("against", []).append(row)
            keep(results)


def compare(
    model: BenchmarkModel,
    loaded: dict[str, Predictor],
    mixes: Sequence[Mix],
    arguments: argparse.Namespace,
    device: torch.device,
    results: dict[str, Any],
    keep: Keep,
) -> None:
    """Measure the peers on every distribution of lengths, and accuracy where labels mean something."""
    installed, reasons = libraries.installed_peers(model, loaded, device)
    results["about"]["skipped"] += [reason for reason in reasons if reason not in results["about"]["skipped"]]
    for mix in mixes:
        rows = peers.measure(model, installed, mix, device, arguments.seconds)
        results.setdefault("peers", []).append(rows)
        keep(results)
    if not model.is_random:
        results.setdefault("accuracy", []).append(accuracy.measure(model, installed, arguments.lengths_from))
