#!/usr/bin/env python3
"""Say what a model is, what of it will be served and what is odd about it, before it is packed; or examine an archive.

  scripts/examine.py models/mine
  scripts/examine.py ORG/NAME --revision v1
  scripts/examine.py model_store/mine.mar

Reads with the readers of scripts/package.py and makes all but the archive, so what it calls packable packs, and what
it refuses is refused by the same line; it goes on after a refusal, so that all of them come at once. Of an archive it
reads origin and calibration, compares every file with its hash, and runs the self-test. Changes nothing.

Exits with 0 where nothing hinders packing or serving, else with 1.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import json
from dataclasses import replace
from pathlib import Path

from handler.config import ModelConfig
from scripts.cli.console import ROOT
from scripts.cli.options import path_name
from scripts.pretrained.options import ModelRequest, add_labels, add_options


def main() -> int:
    """Examine, report."""
    arguments = parser().parse_args()
    from scripts.examination.report import print_examination

    if Path(arguments.model).is_file():
        from scripts.examination.archive_file import examine_archive

        examination = examine_archive(Path(arguments.model))
    else:
        from scripts.examination.folder import examine_model

        config = ModelConfig.read(arguments.config)
        config = replace(config, handler=replace(config.handler, task=arguments.task or config.handler.task))
        examination = examine_model(ModelRequest.of(arguments), config)
    if arguments.json:
        print(json.dumps(examination.to_json(), indent=2, ensure_ascii=False))
    else:
        print_examination(examination)
    return 0 if examination.is_sound else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="FOLDER|ARCHIVE|ID", help="a model's folder, a hub id, or a .mar")
    add_options(parser)
    add_labels(parser)
    parser.add_argument("--task", help="by default what the model's config.json says")
    parser.add_argument(
        "--config",
        type=path_name,
        default=ROOT / "model-config.yaml",
        metavar="FILE",
        help="settings to examine it with",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


if __name__ == "__main__":
    run(main)
