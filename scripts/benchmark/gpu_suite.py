"""Parts of scripts/bench_gpu.py, each measured in a process of its own, so that a failed GPU is reset for the next."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PARTS = ("bert-large", "bert-base", "small", "workers")
# Shares of the time; what a part leaves is distributed over the next ones.
SHARES = {"bert-large": 0.36, "bert-base": 0.24, "small": 0.18, "workers": 0.22}
GRACE_S = 40.0  # from the planned end of a part until its process is killed


def measure(
    names: Sequence[str], minutes: float, device: str, output: Path, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure the parts one after the other within `minutes`; `keep` is called with all results so far after each."""
    results: dict[str, Any] = {"about": {}, "models": [], "left_out": []}
    until = time.time() + 60 * minutes - GRACE_S
    began = time.time()
    for index, name in enumerate(names):
        remaining = [SHARES[part] for part in names[index:]]
        end = time.time() + (until - time.time()) * SHARES[name] / sum(remaining)
        part = measure_part(name, end, device, output / f"{name}.partial.json")
        results["about"] = part.pop("about", None) or results["about"]
        results["left_out"] += part.pop("left_out", [])
        if "workers" in part:
            results["workers"] = part["workers"]
        elif "model" in part:
            results["models"].append(part)
        results["about"]["Took"] = f"{time.time() - began:.0f} s"
        keep(results)
    return results


def measure_part(name: str, until: float, device: str, path: Path) -> dict[str, Any]:
    """Measure one part in a process of its own; a process that exceeds `until` by GRACE_S is killed."""
    path.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure, args=(name, until, device, path))
    process.start()
    process.join(max(1.0, until - time.time()) + GRACE_S)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.unlink(missing_ok=True)
    if late or process.exitcode:
        results.setdefault("left_out", []).append(
            f"{name}: {'out of time' if late else f'exit code {process.exitcode}'}"
        )
    return results


def _measure(name: str, until: float, device_name: str, path: Path) -> None:
    import torch

    device = torch.device(device_name)
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        sys.exit(f"error: no GPU to measure: PyTorch {torch.__version__} sees none as {device_name}")
    torch.cuda.set_device(device)
    description = about(device)

    def keep(results: dict[str, Any]) -> None:
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(results | {"about": description}), encoding="utf-8")
        partial.replace(path)

    if name == "workers":
        from handler.engine.precision import supported
        from scripts.benchmark import gpu_workers

        keep({"workers": gpu_workers.measure(device, supported(device)[0])})
    else:
        from scripts.benchmark import gpu

        gpu.measure(name, until, keep, device)


def about(device: Any) -> dict[str, str]:
    """Return GPU, machine and versions."""
    import torch
    import transformers

    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "When": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": " ".join(["python -m scripts.bench_gpu", *sys.argv[1:]]),
        "GPU": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        if gpu
        else "none",
        "Machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "Versions": f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"transformers {transformers.__version__}",
    }
