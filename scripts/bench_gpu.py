#!/usr/bin/env python3
"""Measure the engine on an NVIDIA GPU: speed against its matrix multiply and against transformers, latency, agreement.

Needs PyTorch and transformers, nothing else: weights are random, the tokenizer is made up. Writes results.json and
report.md into --output and ends in --minutes. Run it from the repository: python -m scripts.bench_gpu
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from scripts.benchmark import gpu_report

PARTS = ("bert-large", "bert-base", "small", "workers")
# Of the time; what one leaves goes to the next.
SHARES = {"bert-large": 0.36, "bert-base": 0.24, "small": 0.18, "workers": 0.22}
GRACE_S = 40.0  # from the time of a part to its end by force: what has begun may end


def main() -> int:
    """Measure the parts one after the other, each in a process of its own, and write what was found."""
    arguments = parser().parse_args()
    if arguments.render:
        write(json.loads(arguments.render.read_text(encoding="utf-8")), arguments.output or arguments.render.parent)
        return 0
    output = arguments.output or Path("run") / "bench-gpu"
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"about": {}, "models": [], "left_out": []}
    until = time.time() + 60 * arguments.minutes - GRACE_S
    begun = time.time()
    for name in arguments.only:
        rest = [SHARES[part] for part in arguments.only[arguments.only.index(name) :]]
        end = time.time() + (until - time.time()) * SHARES[name] / sum(rest)
        found = measured(name, end, arguments.device, output / f"{name}.partial.json")
        results["about"] = found.pop("about", None) or results["about"]
        results["left_out"] += found.pop("left_out", [])
        if "workers" in found:
            results["workers"] = found["workers"]
        elif "model" in found:
            results["models"].append(found)
        results["about"]["Took"] = f"{time.time() - begun:.0f} s"
        write(results, output)
    print((output / "report.md").read_text(encoding="utf-8"))
    return 0 if results["models"] or "workers" in results else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=7.5, metavar="M", help="of all (default: %(default)s)")
    parser.add_argument("--device", default="cuda:0", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: run/bench-gpu)")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write the report of these results")
    return parser


def parts(word: str) -> tuple[str, ...]:
    """Read a list of parts."""
    names = tuple(name.strip() for name in word.split(",") if name.strip())
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name} is no part; there are {', '.join(PARTS)}")
    return names


def measured(name: str, until: float, device: str, path: Path) -> dict[str, Any]:
    """Measure one part in a process of its own: a GPU that fails there is whole again for the next."""
    path.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure, args=(name, until, device, path))
    process.start()
    process.join(max(1.0, until - time.time()) + GRACE_S)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.unlink(missing_ok=True)
    if late or process.exitcode:
        found.setdefault("left_out", []).append(f"{name}: {'out of time' if late else f'exit code {process.exitcode}'}")
    return found


def _measure(name: str, until: float, device_name: str, path: Path) -> None:
    import torch

    device = torch.device(device_name)
    if device.type != "cuda" or not torch.cuda.is_available():
        sys.exit(f"error: no GPU to measure: PyTorch {torch.__version__} sees none as {device_name}")
    torch.cuda.set_device(device)
    facts = about(device)

    def keep(found: dict[str, Any]) -> None:
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(found | {"about": facts}), encoding="utf-8")
        partial.replace(path)

    if name == "workers":
        from handler.engine.precision import supported
        from scripts.benchmark import gpu_workers

        keep({"workers": gpu_workers.measure(device, supported(device)[0])})
    else:
        from scripts.benchmark import gpu

        gpu.measure(name, until, keep, device)


def about(device: Any) -> dict[str, str]:
    """Describe GPU, driver, machine and versions."""
    import torch
    import transformers

    its = torch.cuda.get_device_properties(device)
    return {
        "When": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": " ".join(["python -m scripts.bench_gpu", *sys.argv[1:]]),
        "GPU": f"{its.name}, {its.total_memory / 2**30:.0f} GiB, compute capability {its.major}.{its.minor}",
        "Machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "Versions": f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"transformers {transformers.__version__}",
    }


def write(results: dict[str, Any], folder: Path) -> None:
    """Write results and report: a run that is cut short keeps them."""
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(gpu_report.render(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
