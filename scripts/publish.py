#!/usr/bin/env python3
"""Push a model's folder, or an archive, with its card to the hub of Hugging Face, MLflow or an OCI registry.

  scripts/publish.py models/mine --to ORG/NAME --dry-run
  scripts/publish.py models/mine --to ORG/NAME --evaluated report/model-index.yaml
  scripts/publish.py model_store/mine.mar --to ORG/NAME --revision v1.2
  scripts/publish.py model_store/mine.mar --to models:/mine --alias champion
  scripts/publish.py model_store/mine.mar --to oci://registry.example.com/team/mine:1.0

Pushed are config, tokenizer, weights in safetensors, training.json, training.png and the card; of an archive the .mar,
its OpenAPI document and its card. The card is the folder's README.md or is written from training.json, and its metadata
(task, base model, library, model-index with the metrics) are filled in. Checkpoints, optimizer states, data and all
other files stay here and are listed; a file that holds what looks like a secret key is refused. A new repository is
private unless --public is said. HF_TOKEN and HF_ENDPOINT count as for huggingface_hub. models:/NAME is a registered
model of MLflow, at the server of MLFLOW_TRACKING_URI: each push is a new version, with the card as its description.
oci://HOST/REPOSITORY:TAG is an artifact of an OCI registry, of one layer a file, as ORAS pulls it; the tag moves to it.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from scripts.cli import console
from scripts.cli.console import ScriptError, say
from scripts.cli.options import path_name


def main() -> None:
    """Read the command line, show what is pushed, and push it."""
    options = parser().parse_args()
    from scripts.archives import publication
    from scripts.archives.model_card import read_model_index
    from scripts.pretrained import mlflow_registry, oci_registry

    is_mlflow, is_oci = (options.to.startswith(module.SCHEME) for module in (mlflow_registry, oci_registry))
    check_options(options, is_mlflow=is_mlflow, is_oci=is_oci)
    check_target = mlflow_registry.target_of if is_mlflow else oci_registry.target_of if is_oci else check_hub_id
    check_target(options.to)

    evaluated = read_model_index(options.evaluated) if options.evaluated else []
    if options.source.is_file():
        files = publication.of_archive(options.source, evaluated)
    elif options.source.is_dir():
        name = options.to.rpartition("/")[2].partition(":")[0]
        files = publication.of_folder(options.source, name, options.base_model, evaluated)
    else:
        raise ScriptError(f"{options.source}: no such folder or archive")
    rows = [[path, f"{files.size(path) / 1e3:,.1f} kB"] for path in sorted(files.files)]
    console.table([f"to {options.to}", "size"], rows)
    if files.left:
        more = f" and {len(files.left) - 10} more" if len(files.left) > 10 else ""
        say(f"stay here: {', '.join(files.left[:10])}{more}")
    if options.dry_run:
        print(files.card)
        say("--dry-run: nothing was sent")
        return
    if is_oci:
        say(f"pushed: {oci_registry.push(files.files, options.to)}")
        return
    if is_mlflow:
        say(f"pushed: {mlflow_registry.push(files.files, options.to, files.description, options.alias)}")
        return
    address = publication.push(
        files,
        options.to,
        public=options.public,
        revision=options.revision,
        create_pr=options.create_pr,
        message=options.message or f"Publish {options.source.name}",
    )
    say(f"pushed: {address}")


def check_options(options: argparse.Namespace, *, is_mlflow: bool, is_oci: bool) -> None:
    """Raise ScriptError for an option that the target does not have."""
    of_hub = {name: getattr(options, name) for name in ("revision", "create_pr", "public", "message")}
    if (is_mlflow or is_oci) and any(of_hub.values()):
        name = next(name for name, value in of_hub.items() if value)
        kind = "a model registry of MLflow" if is_mlflow else "an OCI registry"
        raise ScriptError(f"--{name.replace('_', '-')} is for the hub, and {options.to} is {kind}")
    if options.alias and not is_mlflow:
        raise ScriptError("--alias is for a model registry of MLflow (--to models:/NAME)")


def check_hub_id(name: str) -> None:
    """Raise ScriptError for what cannot be a repository of the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    problem: Exception | None = None
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        problem = error
    if problem or "/" not in name:
        raise ScriptError(f"--to {name}: give ORG/NAME, models:/NAME or oci://HOST/REPOSITORY:TAG") from problem


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", type=path_name, metavar="FOLDER|ARCHIVE", help="a model's folder, or a .mar")
    add(
        "--to",
        required=True,
        metavar="ORG/NAME|models:/NAME|oci://HOST/REPOSITORY:TAG",
        help="the repository of the hub, the registered model of MLflow, or the artifact of an OCI registry",
    )
    add("--alias", metavar="NAME", help="of MLflow, for the new version, e.g. champion")
    add("--revision", metavar="BRANCH", help="branch to push to, made where it is missing (default: main)")
    add("--create-pr", action="store_true", help="open a pull request instead of changing the branch")
    add("--public", action="store_true", help="make a new repository public; an existing one stays as it is")
    add("--base-model", metavar="ORG/NAME", help="of an adapter, where it was trained on a local folder")
    add("--evaluated", type=path_name, metavar="FILE", help="model-index.yaml of scripts/evaluate.py, for the card")
    add("--message", metavar="TEXT", help="of the commit (default: Publish NAME)")
    add("--dry-run", action="store_true", help="print what would be pushed, and the card; send nothing")
    return parser


if __name__ == "__main__":
    run(main)
