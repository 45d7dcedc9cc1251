"""Machine, versions and command of a measurement."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from handler.config import usable_cores
from handler.engine import int8_weights
from handler.engine.precision import supported
from scripts.cli.console import ROOT

PACKAGES = ("torch", "transformers", "tokenizers", "torchserve")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
# Peer -> the packages that it needs beside those of requirements/develop.txt.
PEERS = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "nncf"),
    "ctranslate2": ("ctranslate2",),
    "fastembed": ("fastembed", "onnxruntime", "onnx"),
    "torchao": ("torchao",),
    "litserve": ("litserve",),
    "loadgen": ("mlcommons-loadgen",),
    "plots": ("matplotlib",),
}
HOW = "pip install -r requirements/bench.txt -c requirements/constraints.txt"
# fastembed 0.9.1 requires huggingface-hub below 2, and constraints.txt pins 2.4: it works with that all the same.
HOW_ELSE = {"fastembed": f"{HOW}, then pip install --no-deps -r requirements/fastembed.txt"}


def about(device: torch.device) -> dict[str, Any]:
    """Describe the machine, the versions and the command."""
    peers = list(dict.fromkeys(package for packages in PEERS.values() for package in packages))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["scripts/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "precisions": [*supported(device), *(["int8"] if int8_weights.supported(device) else [])],
        "load": load(),
        "versions": {name: version(name) for name in (*PACKAGES, *peers)},
    }


def load() -> list[float]:
    """Return the load averages of 1, 5 and 15 minutes, with this process."""
    return [round(value, 2) for value in os.getloadavg()]


def processor() -> str:
    """Return the name of the processor and those of INSTRUCTIONS that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(facts.get("flags", "").split())
    instructions = [flag for flag in INSTRUCTIONS if flag in flags]
    name = (
        f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )
    return f"{name}, {', '.join(instructions)}"


def version(package: str) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(peer: str) -> str:
    """Return that a peer is skipped, and why; empty where nothing is missing."""
    return f"{peer} is skipped: {reason}" if (reason := lacking(peer)) else ""


def lacking(peer: str) -> str:
    """Return which packages of a peer are not installed and how to install them; empty where all are."""
    packages = [package for package in PEERS[peer] if version(package) is None]
    return f"{' and '.join(packages)} not installed; {HOW_ELSE.get(peer, HOW)}" if packages else ""


def commit(root: Path = ROOT) -> str:
    """Return the commit of a checkout, with a + where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],  # noqa: S607 - the user's git
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
