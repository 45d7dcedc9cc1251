"""The options of scripts/evaluate.py, which other commands share in part."""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.cli.console import output_here
from scripts.cli.options import natural_int, path_name, positive_int, seconds
from scripts.client.server import add_options

SPLIT = "test"
PROBLEMS = (  # of scripts/evaluation/data.py
    "single",
    "multi",
    "regression",
    "entailment",
    "ranking",
    "entities",
    "answers",
    "masked-words",
    "next-sentence",
    "zero-shot",
    "retrieval",
    "similarity",
)


def parse(description: str) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s MODEL --data FILE [options]\n       %(prog)s --local PATH --data FILE [options]",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="the model's name (not with --local)")
    parser.add_argument("--local", type=path_name, metavar="PATH", help="a model folder or .mar, without a server")
    parser.add_argument("--version", help="of the model (default: the default version)")
    add_data_options(parser)

    looks = parser.add_argument_group("what is looked at")
    looks.add_argument(
        "--train", type=path_name, metavar="FILE", help="what it was trained on: leakage, membership inference"
    )
    looks.add_argument(
        "--groups", action="append", default=[], metavar="COLUMN", help="fairness between its groups; again for more"
    )
    looks.add_argument(
        "--terms", type=path_name, metavar="FILE", help="fairness: a line of terms to swap, e.g. he, she"
    )
    looks.add_argument("--against", metavar="WHAT", help="another version, NAME/VERSION, or a path, to compare with")
    looks.add_argument(
        "--no-robustness", action="store_true", help="leave out the perturbations, most of the time of a run"
    )
    looks.add_argument(
        "--explain",
        type=natural_int,
        default=20,
        metavar="N",
        help="texts whose explanations are tested (default: 20; 0: none)",
    )

    result = parser.add_argument_group("result")
    output_help = "default: evaluation, in the temporary folder where this one cannot be written"
    result.add_argument("--output", type=path_name, default=output_here("evaluation"), metavar="DIR", help=output_help)
    result.add_argument(
        "--gate", type=path_name, metavar="FILE", help="limits that decide the exit code (docs/evaluation.md)"
    )
    result.add_argument("--with-text", action="store_true", help="show the texts of the listed rows in report.html")

    add_request_options(parser)
    add_options(parser)
    arguments = parser.parse_args()
    if bool(arguments.model) == bool(arguments.local):
        parser.error("name a model, or a folder with --local, not both")
    if bool(arguments.data) == bool(arguments.dataset):
        parser.error("--data FILE or --dataset NAME is needed")
    return arguments


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the examples and their columns, as scripts/train.py has them."""
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=path_name, metavar="FILE", help="labelled examples that the model has not seen")
    data.add_argument("--dataset", metavar="NAME", help="instead of a file: a dataset of the hub or of a folder")
    data.add_argument("--dataset-config", metavar="NAME", help="its configuration")
    data.add_argument("--split", default=SPLIT, metavar="NAME", help=f"its split (default: {SPLIT})")
    data.add_argument("--problem", choices=["auto", *PROBLEMS], default="auto", help="default: what the model is for")
    data.add_argument("--text-column", metavar="COLUMN")
    data.add_argument("--pair-column", metavar="COLUMN")
    data.add_argument("--label-column", metavar="COLUMN")
    data.add_argument("--label-columns", metavar="A,B,C", help="several labels for a text: columns of 0 and 1")
    data.add_argument("--label-separator", metavar="CHAR", help="several labels for a text: between them")
    data.add_argument(
        "--label-names", metavar="A,B,C", help="several labels for a text: what 0 and 1 in a list stand for"
    )
    data.add_argument("--out-of-scope-label", metavar="NAME", help="the label of texts that no label of the model fits")
    data.add_argument(
        "--limit", type=positive_int, metavar="N", help="a sample of so many examples, always the same one"
    )
    data.add_argument(
        "--seed", type=natural_int, default=0, help="of samples, perturbations and resampling (default: 0)"
    )


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of requests."""
    speed = parser.add_argument_group("requests")
    speed.add_argument("--texts-per-request", type=positive_int, default=64, metavar="N", help="default: 64")
    speed.add_argument("--concurrency", type=positive_int, default=4, metavar="N", help="in flight (default: 4)")
    speed.add_argument("--tries", type=positive_int, default=6, metavar="N", help="of one request (default: 6)")
    speed.add_argument("--timeout", type=seconds, default=120, metavar="SECONDS", help="of one try (default: 120)")


def defaults(**chosen: object) -> argparse.Namespace:
    """Return the settings of a command line without options, some replaced by `chosen`."""
    parser = argparse.ArgumentParser(add_help=False)
    add_data_options(parser)
    add_request_options(parser)
    settings = parser.parse_args([])
    unset: dict[str, object] = {
        "model": None, "local": None, "version": None, "train": None, "groups": [], "terms": None, "against": None,
        "no_robustness": True, "explain": 0, "output": Path("evaluation"), "gate": None, "with_text": False,
    }  # fmt: skip
    return argparse.Namespace(**{**vars(settings), **unset, **chosen})
