#!/usr/bin/env python3
"""Answer every row of a corpus on a Ray cluster, with the model that a server would have: no server takes part.

Files are CSV, TSV, JSON, JSON lines, Parquet or text with one text a line; folders are searched for them. Rows without
a column `text` are questions as a whole, e.g. {"question": ..., "context": ...}. Each row of the
output has the `file` and the number of the `row` in it, counted from 0, then `answer` or, where there is none, `error`.

The output is a folder of parts that is complete when it has a _manifest.json; then every row is in it once. A run that
is interrupted continues when it is started again. On a cluster every node needs this checkout with its
environment, and must find model, files and output under the same paths.

Exits with 0 when every row got its answer, with 1 when some got an error, with 2 when the run could not finish.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from handler.config import ServingConfig
from scripts.cli.console import counted, say
from scripts.cli.options import json_object, natural_float, path_name, positive_int
from scripts.scoring import cluster
from scripts.scoring.corpus import sources
from scripts.scoring.ids import typed_ids
from scripts.scoring.job import ScoringJob, fingerprint
from scripts.scoring.output import OUTPUTS
from scripts.scoring.rows import CorpusColumns
from scripts.scoring.run import answer, report
from scripts.scoring.scorer import ScorerConfig


def main() -> int:
    """Answer the missing parts of the output folder, then check that it is complete."""
    arguments = parse_arguments()
    settings = {name: getattr(arguments, name) for name in ("precision", "max_batch_tokens")}
    given = {name: value for name, value in settings.items() if value is not None}
    ServingConfig(**given)  # refuses what no worker could obey, before Ray starts
    cluster.import_ray()
    columns = CorpusColumns(arguments.column, arguments.pair_column, arguments.id)
    files = sources(arguments.inputs, columns, arguments.output)
    say(f"counting the rows of {counted(len(files), 'file')}")
    model = {"sha256": fingerprint(arguments.model)}
    options = {
        "columns": vars(columns),
        "model": model,
        "settings": settings,
        "parameters": arguments.parameters,
        "rows_per_batch": arguments.rows_per_batch,
    }
    job = ScoringJob.open(arguments.output, arguments.format, files, arguments.rows_per_part, options)
    if manifest := job.manifest():
        say(f"{arguments.output} is complete already")
        return report(manifest)
    with cluster.connected(arguments.address) as ray:
        pool = cluster.workers(ray, arguments.workers, arguments.cpus, arguments.gpus)
        config = ScorerConfig(
            str(arguments.model.resolve()),
            model["sha256"],
            given,
            arguments.parameters,
            columns,
            files,
            arguments.format,
            arguments.rows_per_batch,
            pool.cores,
            bool(pool.gpus),
            typed_ids([source.id_type for source in files]),
        )
        answer(ray, job, config, pool)
    return report(job.close())


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=path_name, metavar="FILE", help="or a folder of files")
    parser.add_argument("--model", type=path_name, required=True, metavar="PATH", help="a .mar or a model folder")
    parser.add_argument("--output", type=path_name, required=True, metavar="FOLDER", help="where the parts go")
    parser.add_argument("--format", choices=OUTPUTS, default="parquet", help="of the parts (default: parquet)")

    rows = parser.add_argument_group("rows")
    rows.add_argument("--column", metavar="NAME", help="of the text (default: text)")
    rows.add_argument("--pair-column", metavar="NAME", help="of the second text")
    rows.add_argument("--id", metavar="NAME", help="a column that goes into the output as `id`")

    answers = parser.add_argument_group("answers")
    answers.add_argument("--top-k", type=positive_int, metavar="N", help="labels an answer (default: the model's)")
    answers.add_argument("--operation", metavar="WORD", help="another use of the model, e.g. embed")
    answers.add_argument("--parameters", type=json_object, default={}, metavar="JSON", help="of the task, as an object")
    answers.add_argument("--precision", metavar="WORD", help="instead of the model's own setting")

    speed = parser.add_argument_group("workers")
    speed.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: this machine alone)")
    speed.add_argument("--workers", type=positive_int, metavar="N", help="at most (default: as many as fit)")
    speed.add_argument(
        "--cpus",
        type=positive_int,
        metavar="N",
        help="cores of a worker (default: of the smallest node, at most 8)",
    )
    speed.add_argument(
        "--gpus", type=natural_float, default=0, metavar="X", help="of a worker, e.g. 1 or 0.5 (default: 0)"
    )
    speed.add_argument(
        "--rows-per-batch",
        type=positive_int,
        default=1024,
        metavar="N",
        help="packed at once (default: 1024)",
    )
    speed.add_argument("--max-batch-tokens", type=positive_int, metavar="N", help="of one forward pass")
    speed.add_argument(
        "--rows-per-part", type=positive_int, default=8192, metavar="N", help="of a file of the output (default: 8192)"
    )
    arguments = parser.parse_args()
    shortcuts = {"top_k": arguments.top_k, "operation": arguments.operation}
    arguments.parameters |= {name: value for name, value in shortcuts.items() if value is not None}
    return arguments


if __name__ == "__main__":
    run(main)
