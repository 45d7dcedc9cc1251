"""Process of scripts/bench.py --against: loads a model with the handler of the current folder and runs it on demand.

Its text is passed to `python -c` in a checkout of any commit since a7c79b7, so it imports nothing of scripts/ and looks
names up that commits have in different modules. Reads its job and then commands, one a line, from standard input, and
writes one line of JSON for each to standard output.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import time
from pathlib import Path
from typing import Any

LOADERS = (("handler.loading", "load_predictor"), ("handler.predictor", "Predictor.load"))
ENCODING_OPTIONS = (("handler.sequences", "EncodingOptions"), ("handler.layout", "Layout"))


def find(names: Any) -> Any:
    """Return the first object that exists, of (module, dotted name)."""
    for module, dotted in names:
        try:
            value: Any = importlib.import_module(module)
            for part in dotted.split("."):
                value = getattr(value, part)
        except (ImportError, AttributeError):
            continue
        return value
    raise SystemExit(f"this commit has none of {names}: it is older than a7c79b7, or newer than this benchmark")


def main() -> None:
    """Load, say ready, and run commands until standard input ends."""
    job = json.loads(sys.stdin.readline())
    importlib.import_module("handler.bert_handler")  # what a worker of TorchServe imports
    import torch

    config = importlib.import_module("handler.config").ServingConfig(precision=job["precision"])
    torch.set_num_threads(job["threads"])
    load = find(LOADERS)
    options: Any = {"serving": True} if "serving" in inspect.signature(load).parameters else {}
    predictor = load(Path(job["model"]), config, torch.device("cpu"), **options)
    torch.set_num_threads(job["threads"])
    predictor.answer_items(["Ready?"], {"top_k": 1})
    kernels = importlib.import_module("handler.engine.kernels").library() is not None
    reply({"ready": True, "kernels": kernels})
    by_default = find(ENCODING_OPTIONS)()
    encodings = {
        name: [
            sequences[0]
            for sequences in predictor.tokenizer.encode([(text, None) for text in texts], [by_default] * len(texts))
        ]
        for name, texts in job["mixes"].items()
    }
    runs = {
        "engine": lambda mix: predictor.engine.run(encodings[mix]),
        "answers": lambda mix: predictor.answer_items(job["mixes"][mix], {"top_k": None}),
    }
    for line in sys.stdin:
        command = json.loads(line)
        began = time.perf_counter()
        for _ in range(command["repeats"]):
            runs[command["measure"]](command["mix"])
        reply({"seconds": (time.perf_counter() - began) / command["repeats"]})


def reply(value: Any) -> None:
    """Write one line."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
