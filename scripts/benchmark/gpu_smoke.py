"""A tiny model answers on a GPU as on the CPU, in every precision: the first half minute on a new machine.

python -m scripts.benchmark.gpu_smoke --device cuda:0 --output smoke.json; see scripts/gpu_acceptance.sh.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.config import ServingConfig
from handler.engine import fp8
from handler.engine.precision import supported
from handler.engine.probe import random_encodings
from handler.loading import load_predictor
from scripts.benchmark.gpu import engine_facts
from scripts.benchmark.gpu_suite import about
from scripts.benchmark.synthetic import random_classifier, word_tokenizer
from scripts.cli.files import check_output, write_whole
from scripts.cli.options import path_name, torch_device

LENGTHS = (3, 20, 8, 50, 120, 1, 64, 65)
# Of the largest logit, with random weights: more is not rounding.
TOLERANCES = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1, "fp8": 0.4}


def main() -> int:
    """Answer in every precision of the device; return 1 where one fails or differs from fp32 on a CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch_device, default="cuda:0")
    parser.add_argument("--output", type=path_name, required=True, metavar="FILE")
    arguments = parser.parse_args()
    check_output(arguments.output)
    results: dict[str, Any] = {"about": about(arguments.device), "precisions": measure(arguments.device)}
    write_whole(arguments.output, json.dumps(results, indent=1) + "\n")
    for fact in results["about"].items():
        print(*fact, sep=": ")
    for name, row in results["precisions"].items():
        print(name, json.dumps(row))
    return 0 if all(row["right"] for row in results["precisions"].values()) else 1


def measure(device: torch.device) -> dict[str, Any]:
    """Return, for each precision, whether its logits are those of fp32 on a CPU, and what the engine chose."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="smoke-") as scratch:
        folder = random_classifier(Path(scratch) / "model", 2, 128, word_tokenizer())
        reference = load_predictor(folder, ServingConfig(precision="fp32"), torch.device("cpu"))
        encodings = random_encodings(reference.engine.model.config, LENGTHS)
        expected = np.stack([np.asarray(output) for output in reference.engine.run(encodings)])
        for precision in [*supported(device), *(["fp8"] if fp8.supported(device) else [])]:
            began = time.perf_counter()
            try:
                config = ServingConfig(precision=precision)  # type: ignore[arg-type]
                predictor = load_predictor(folder, config, device)
                logits = np.stack([np.asarray(output) for output in predictor.engine.run(encodings)])
                error = float(np.abs(logits - expected).max() / np.abs(expected).max())
                row = {"right": error <= TOLERANCES[precision], "error": round(error, 5), **engine_facts(predictor)}
            except Exception as failure:  # noqa: BLE001 - the other precisions are still tried
                row = {"right": False, "failure": f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"}
            rows[precision] = {**row, "seconds": round(time.perf_counter() - began, 1)}
    return rows


if __name__ == "__main__":
    run(main)
