#!/usr/bin/env python3
"""Pack a fine-tuned model and the handler into a TorchServe archive, model_store/NAME.mar.

Beside it, NAME.openapi.json describes every route on which the model will answer.

The archive holds weights, tokenizer, code, settings, a model card, an OpenAPI document, the SHA-256 of every file and
the outputs of a self-test: what the model answers to a few fixed inputs, computed by transformers in fp32 from tokens
that the tokenizers library reads out of tokenizer.json. Where the handler reads other tokens or answers differently,
nothing is packed; a worker that finds another hash or other outputs refuses to become ready. The same input gives the
same bytes.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import datetime
from dataclasses import fields, replace

from handler import archive
from handler.config import ModelConfig, ServingConfig
from scripts.archives.build import ArchiveContents, build
from scripts.archives.examples import ColumnOptions
from scripts.cli.console import ROOT, ScriptError, say
from scripts.cli.options import path_name, ratio
from scripts.pretrained.options import ModelRequest, add_labels, add_options

FILES = (
    "calibration",
    "evaluation",
    "calibrate_scores",
    "out_of_scope",
    "evaluated",
)  # options that name a file to read


def main() -> None:
    """Read the command line and build one archive."""
    options = parser().parse_args()
    began = datetime.datetime.now(datetime.timezone.utc)
    for name in (*FILES, "sign"):
        file = getattr(options, name)
        if file is not None and not file.is_file():
            raise ScriptError(f"--{name.replace('_', '-')} {file}: no such file")
    config = with_options(ModelConfig.read(options.config), options)
    columns = ColumnOptions(options.text_column, options.pair_column, options.label_column)
    calibration = None
    if options.calibration:
        from scripts.archives.calibration import Calibration

        calibration = Calibration(options.calibration, options.evaluation, options.min_accuracy_ratio, columns)
    scores = None
    if options.abstain_by != "calibrated" and not options.out_of_scope:
        raise ScriptError(f"--abstain-by {options.abstain_by} goes with --out-of-scope FILE")
    if options.calibrate_scores:
        from scripts.archives.score_calibration import ScoreExamples

        scores = ScoreExamples(options.calibrate_scores, options.out_of_scope, columns, options.abstain_by)
    elif options.out_of_scope:
        raise ScriptError("--out-of-scope goes with --calibrate-scores FILE")
    evaluated = []
    if options.evaluated:
        from scripts.archives.model_card import read_model_index

        evaluated = read_model_index(options.evaluated)
    from scripts.pretrained.source import open_model

    with open_model(ModelRequest.of(options)) as source:
        built = build(
            ArchiveContents(
                source.folder,
                options.name,
                options.version,
                config,
                calibration=calibration,
                provenance=source.provenance,
                scores=scores,
                evaluated=evaluated,
            ),
            options.model_store,
        )
    if options.sign:
        from scripts.archives.attestation import Packing, attest
        from scripts.archives.signing import sign

        inputs = {name.replace("_", "-"): file for name in FILES if (file := getattr(options, name))}
        say(f"signed: {sign(built, options.sign)}, {attest(built, options.sign, Packing(began, inputs))}")
    say(f"packed {built} ({built.stat().st_size / 1e6:.0f} MB, SHA-256 {archive.sha256(built)})")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, metavar="DIR|ID", help="the fine-tuned model: a local folder or a hub id (ORG/NAME)"
    )
    add_options(parser)
    add_labels(parser)
    parser.add_argument("--name", required=True, help="name of the model on the server and of the archive")
    parser.add_argument("--version", default="1.0", help="version on the server (default: %(default)s)")
    parser.add_argument(
        "--model-store", type=path_name, default=ROOT / "model_store", metavar="DIR", help="where to write"
    )
    parser.add_argument(
        "--config",
        type=path_name,
        default=ROOT / "model-config.yaml",
        metavar="FILE",
        help="settings that options override",
    )
    parser.add_argument(
        "--sign",
        type=path_name,
        metavar="KEY.pem",
        help="sign the archive and its provenance with this elliptic private key: NAME@VERSION.sig and "
        "NAME@VERSION.intoto.jsonl (SECURITY.md#signed-archives)",
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
        "--calibration", type=path_name, metavar="FILE", help="examples (.csv, .tsv, .jsonl), the best with labels"
    )
    integers.add_argument(
        "--evaluation",
        type=path_name,
        metavar="FILE",
        help="examples to compare on (default: every second for calibration)",
    )
    integers.add_argument(
        "--min-accuracy-ratio", type=ratio, default=0.99, metavar="R", help="to fp32 (default: %(default)s)"
    )
    confidence = parser.add_argument_group(
        "scores that are probabilities (without these options scores are those of transformers)"
    )
    confidence.add_argument(
        "--calibrate-scores",
        type=path_name,
        metavar="FILE",
        help="labelled examples that the model has not seen, as train.py reads them: served scores become "
        "probabilities of being right, and requests may say min_confidence, coverage and raw",
    )
    confidence.add_argument(
        "--out-of-scope",
        type=path_name,
        metavar="FILE",
        help="texts that no label fits: reports how well the confidence tells them from the others",
    )
    confidence.add_argument(
        "--abstain-by",
        choices=("calibrated", "raw", "energy", "auto"),
        default="calibrated",
        help="with --out-of-scope: the confidence that min_confidence is compared with; auto takes the one that tells "
        "such texts best (default: %(default)s)",
    )
    parser.add_argument(
        "--evaluated",
        type=path_name,
        metavar="FILE",
        help="model-index.yaml of scripts/evaluate.py: its metrics, with intervals, go into the model card's metadata",
    )
    examples = parser.add_argument_group(
        "columns of --calibration, --evaluation, --calibrate-scores and --out-of-scope"
    )
    examples.add_argument("--text-column", metavar="NAME", help="the text (default: text, or as the task names it)")
    examples.add_argument("--pair-column", metavar="NAME", help="the second text (default: as the task names it)")
    examples.add_argument("--label-column", metavar="NAME", help="the label (default: label)")
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


if __name__ == "__main__":
    run(main)
