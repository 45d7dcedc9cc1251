#!/usr/bin/env python3
"""Pack a fine-tuned model and the handler into a TorchServe archive, model_store/NAME.mar.

Beside it, NAME.openapi.json describes every route on which the model will answer.

The archive holds weights, tokenizer, code, settings, a model card, an OpenAPI document, the SHA-256 of every file and
golden answers: what the model answers to a few fixed questions, computed the plain way (fp32, padded). A worker that
finds another hash or other answers refuses to become ready. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.errors import InputTooLong, InvalidInput
from handler.wire import JSON
from scripts.archives import Store
from scripts.console import ROOT, ScriptError, run, say
from scripts.model_card import card

# torch and transformers take seconds to import: functions do it, so that --help and mistakes are told at once.
if TYPE_CHECKING:
    from handler.predictor import Predictor
    from scripts.calibration import Calibration

# Everything a tokenizer or a model is saved as, and nothing else: no pickles, no checkpoints of a trainer.
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "training.json",
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can say


def main() -> None:
    """Read the command line and build one archive."""
    options = parser().parse_args()
    config = with_options(ModelConfig.read(options.config), options)
    calibration = None
    if options.calibration:
        from scripts.calibration import Calibration

        calibration = Calibration(
            options.calibration, options.evaluation, options.min_accuracy_ratio, options.label_column
        )
    built = build(options.model, options.name, options.version, config, options.model_store, calibration)
    say(f"packed {built} ({built.stat().st_size / 1e6:.0f} MB, SHA-256 {archive.sha256(built)})")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of the fine-tuned model")
    parser.add_argument("--name", required=True, help="name of the model on the server and of the archive")
    parser.add_argument("--version", default="1.0", help="version on the server (default: %(default)s)")
    parser.add_argument("--model-store", type=Path, default=ROOT / "model_store", metavar="DIR", help="where to write")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "model-config.yaml", metavar="FILE", help="settings that options override"
    )
    frontend = parser.add_argument_group("TorchServe's settings (default: what the config file says)")
    frontend.add_argument("--workers", type=int, help="workers to start with, and at most")
    frontend.add_argument("--batch-size", type=int, help="requests that one worker takes at once")
    frontend.add_argument("--max-batch-delay", type=int, metavar="MS", help="how long a batch waits to fill")
    frontend.add_argument("--response-timeout", type=int, metavar="S", help="after which a worker counts as hung")
    frontend.add_argument("--job-queue-size", type=int, help="requests that may wait")
    handler = parser.add_argument_group("the handler's settings (default: what the config file says)")
    handler.add_argument("--task", help="by default what the model's config.json says")
    handler.add_argument("--precision", help="auto, fp32, bf16, fp16, int8 or fp8")
    handler.add_argument("--overflow", help="truncate, window or refuse a text that is too long")
    handler.add_argument("--stride", type=int, metavar="TOKENS", help="that neighbouring windows share")
    handler.add_argument("--window-merge", help="of the labels of a text's windows: mean, max or weighted")
    handler.add_argument("--max-length", type=int, metavar="TOKENS", help="of one text")
    handler.add_argument("--max-batch-tokens", type=int, metavar="TOKENS", help="of one forward pass")
    handler.add_argument("--max-texts", type=int, help="of one request")
    handler.add_argument("--max-characters", type=int, help="of one text")
    handler.add_argument("--top-k", type=int, help="labels of one answer")
    handler.add_argument("--explain-seconds", type=int, metavar="S", help="for the explanations of one batch")
    handler.add_argument("--threads", type=int, help="of one worker")
    handler.add_argument("--compile", help="fused kernels and graphs for a GPU: auto or never")
    integers = parser.add_argument_group(
        "int8 (with --precision int8 the only weights, with auto beside those in fp32) and fp8, which is compared alone"
    )
    integers.add_argument(
        "--calibration", type=Path, metavar="FILE", help="examples (.csv, .tsv, .jsonl), the best with labels"
    )
    integers.add_argument(
        "--evaluation", type=Path, metavar="FILE", help="examples to compare on (default: every second for calibration)"
    )
    integers.add_argument("--label-column", default="label", metavar="NAME", help="of both files (default: label)")
    integers.add_argument(
        "--min-accuracy-ratio", type=float, default=0.99, metavar="R", help="to fp32 (default: %(default)s)"
    )
    return parser


def with_options(config: ModelConfig, options: argparse.Namespace) -> ModelConfig:
    """Return the settings with what the command line says put over them."""
    frontend = {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.max_batch_delay,
        "responseTimeout": options.response_timeout,
        "jobQueueSize": options.job_queue_size,
    }
    handler = {setting.name: getattr(options, setting.name) for setting in fields(ServingConfig)}
    return ModelConfig(
        replace(config.frontend, **{key: value for key, value in frontend.items() if value is not None}),
        replace(config.handler, **{key: value for key, value in handler.items() if value is not None}),
    )


def build(
    model: Path, name: str, version: str, config: ModelConfig, store: Path, calibration: Calibration | None = None
) -> Path:
    """Build `store`/NAME.mar and return its path; another version that was there is kept (scripts/archives.py).

    Raises:
        ScriptError: a name that TorchServe cannot take, or no packable model in the folder.
        StartupError: what would also keep a worker from becoming ready.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ScriptError(f"--name {name}: use letters, digits, '_', '-' and '.'")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
        raise ScriptError(f"--version {version}: use numbers and dots, e.g. 1.0")
    precision = config.handler.precision
    if calibration is None and precision in archive.GOLDEN_ROUNDED:
        raise ScriptError(f"--precision {precision} needs --calibration FILE, with examples of what will be asked")
    if calibration is not None and precision not in ("auto", *archive.GOLDEN_ROUNDED):
        raise ScriptError("--calibration is for --precision int8, fp8 or auto")
    if not store.is_dir():
        raise ScriptError(f"--model-store {store} is not a folder")
    with staging() as scratch:
        stage = scratch / "stage"
        lay_out(stage, model, config)
        add_answers(stage, name, version, config, calibration)
        packed = run_archiver(stage, name, version, scratch)
        normalised = scratch / "normalised.mar"
        normalise(packed, normalised)
        target = store / f"{name}.mar"
        Store(store).keep(name, instead_of=version)
        put(stage / archive.OPENAPI, store / f"{name}.openapi.json")
        put(normalised, target)
    return target


def put(file: Path, target: Path) -> None:
    """Move a file to its place in one step, from whatever file system."""
    partial = target.with_suffix(".partial")
    shutil.move(file, partial)
    partial.replace(target)


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """Yield a folder of our own: the archiver stages under the model's name, so two builds would collide."""
    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        yield Path(folder)


def lay_out(stage: Path, model: Path, config: ModelConfig) -> None:
    """Put code, model and settings where `handler.archive` says; big files are linked, not copied."""
    from handler.engine import int8

    if not (model / "config.json").is_file():
        raise ScriptError(f"--model {model}: no config.json; give a folder that train.py or save_pretrained wrote")
    if not any(file.name != int8.FILE for file in model.glob("*.safetensors")):
        raise ScriptError(f"--model {model}: no .safetensors; save the model again with save_pretrained")
    code = stage / archive.CODE
    shutil.copytree(ROOT / "handler", code, ignore=shutil.ignore_patterns("__pycache__", "bert_handler.py"))
    shutil.copy(ROOT / "handler" / "bert_handler.py", stage)
    (stage / archive.MODEL).mkdir()
    for pattern in MODEL_FILES:
        for file in model.glob(pattern):
            if file.name != int8.FILE:  # which is made anew, of the weights beside it
                (stage / archive.MODEL / file.name).symlink_to(file.resolve())
    (stage / archive.MODEL_CONFIG).write_text(config.to_yaml(), encoding="utf-8")


def add_answers(
    stage: Path, name: str, version: str, config: ModelConfig, calibration: Calibration | None = None
) -> None:
    """Write golden answers, model card, OpenAPI document and manifest, then hold the stage against them once."""
    import torch

    from handler import openapi
    from handler.engine.precision import supported
    from handler.predictor import Predictor

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order every time
    reference_config = replace(config.handler, precision="fp32")
    model = stage / archive.MODEL
    reference = Predictor.load(model, reference_config, name=name, version=version, packed=False)
    task = reference.task
    archive.write_golden(stage, golden_of(reference))
    add = add_fp8 if config.handler.precision == "fp8" else add_int8
    told_of_bits = add(stage, config, calibration) if calibration else []
    explained = [] if config.handler.precision in archive.GOLDEN_ROUNDED else reference.explained  # as the worker will
    document = openapi.document(reference.operations, explained, reference.model, config.handler)
    write_json(stage / archive.OPENAPI, document)
    (stage / archive.CARD).write_text("\n".join([card(model, reference, config), *told_of_bits]), encoding="utf-8")
    archive.write_manifest(stage, name, version, task.name)
    torch.set_num_threads(threads)
    if config.handler.precision in ("auto", "int8", *supported(torch.device("cpu"))):
        Predictor.load(stage, config.handler, name=name, version=version)
    else:
        say(f"note: this machine cannot try the archive at {config.handler.precision}; the worker will")


def add_int8(stage: Path, config: ModelConfig, calibration: Calibration) -> list[str]:
    """Add the weights in int8 and their golden answers, in the place of those in fp32 unless `auto` has the choice.

    Returns:
        A section of the model card.
    """
    from handler.engine import int8
    from handler.predictor import Predictor
    from scripts.calibration import quantise

    model = stage / archive.MODEL
    report = quantise(model, config.handler, calibration)
    rounded = Predictor.load(model, replace(config.handler, precision="int8"))
    archive.write_golden(stage, golden_of(rounded), archive.golden_name("int8"))
    if config.handler.precision == "int8":
        for file in [*model.glob("*.safetensors"), *model.glob("*.safetensors.index.json")]:
            if file.name != int8.FILE:
                file.unlink()
    return ["## int8", "", *report.lines(), ""]


def add_fp8(stage: Path, config: ModelConfig, calibration: Calibration) -> list[str]:
    """Compare with fp32 and add golden answers in fp8; the worker rounds the weights itself.

    Returns:
        A section of the model card.
    """
    from scripts import fp8

    rounded, report = fp8.tried(stage / archive.MODEL, config.handler, calibration)
    archive.write_golden(stage, golden_of(rounded), archive.golden_name("fp8"))
    return ["## fp8", "", *report.lines(), ""]


def golden_of(reference: Predictor) -> archive.Golden:
    """Answer the golden questions of a task, except those that the operator's limits refuse."""
    golden = archive.Golden([], dict(reference.task.golden_parameters), [])
    for item in reference.task.golden_items:
        with contextlib.suppress(InputTooLong, InvalidInput):
            golden.answers.extend(rounded(reference.answer_items([item], golden.parameters)))
            golden.items.append(item)
    if not golden.items:
        raise ScriptError("the limits refuse every golden question: raise max_characters or max_length")
    return golden


def run_archiver(stage: Path, name: str, version: str, scratch: Path) -> Path:
    """Call torch-model-archiver on the stage; stored, not deflated: weights do not shrink, and minutes are saved."""
    (scratch / "temporary").mkdir()
    command = [
        sys.executable,
        "-c",
        "from model_archiver.model_packaging import generate_model_archive as main; main()",
        *("--model-name", name, "--version", version, "--archive-format", "zip-store"),
        *("--handler", str(stage / "bert_handler.py"), "--config-file", str(stage / archive.MODEL_CONFIG)),
        *("--extra-files", str(stage), "--export-path", str(scratch)),
    ]
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(scratch / "temporary")}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ScriptError(f"torch-model-archiver failed: {done.stderr.strip().splitlines()[-1:]}")
    return scratch / f"{name}.mar"


def normalise(source: Path, target: Path) -> None:
    """Rewrite a zip with sorted entries, one time stamp and one mode, so that equal content is equal bytes."""
    with zipfile.ZipFile(source) as packed, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for entry in sorted(packed.namelist()):
            info = zipfile.ZipInfo(entry, EPOCH)
            info.external_attr = 0o644 << 16
            if entry == "MAR-INF/MANIFEST.json":
                manifest = json.loads(packed.read(entry))
                manifest["createdOn"] = "01/01/1980 00:00:00"
                out.writestr(info, json.dumps(manifest, indent=2))
                continue
            with packed.open(entry) as reader, out.open(info, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)


def rounded(answers: JSON) -> JSON:
    """Round every number to 5 digits: a last bit must not change the archive."""
    if isinstance(answers, list):
        return [rounded(answer) for answer in answers]
    if isinstance(answers, dict):
        return {key: rounded(answer) for key, answer in answers.items()}
    return float(f"{answers:.5g}") if isinstance(answers, float) else answers


def write_json(path: Path, value: JSON) -> None:
    """Write indented JSON for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
