#!/usr/bin/env python3
"""Evaluate what is really served: ask a model every example of a labelled file, and write a report.

  scripts/evaluate.py intents --data examples/intents/test.csv --output evaluation
  scripts/evaluate.py --local models/intents --data test.csv --train train.csv --groups channel --terms terms.txt
  scripts/evaluate.py intents --data test.csv --against 1.0 --gate gate.yaml

Files are those of scripts/train.py; the model says what they are for, --problem says otherwise. The output folder gets
report.html (open it in a browser), report.json, model-index.yaml (metadata for a model card) and answers.jsonl, from
which an interrupted run goes on. The report holds numbers, labels and numbers of rows; texts of the listed rows only
with --with-text.

Exits with 0, with 1 where --gate is not kept, with 2 when the evaluation could not finish.
"""

from __future__ import annotations

from scripts.cli.command import run

from scripts.evaluation.settings import parse


def main() -> int:
    """Evaluate a model from a command line."""
    arguments = parse(__doc__ or "")
    # scipy, numpy and the tasks take seconds to import: --help and mistakes in options must not wait for them.
    from scripts.evaluation.run import run

    return 0 if run(arguments) else 1


if __name__ == "__main__":
    run(main)
