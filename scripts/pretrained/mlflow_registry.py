"""The model registry of MLflow as a place of models: versions are pushed to it, and fetched by models:/NAME/VERSION.

The server is the one of MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_TOKEN, ...), as for every client of
MLflow; without one nothing is read or written. The files of a version are the artifacts of a run.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError, say
from scripts.pretrained.provenance import RegistryVersion

SCHEME = "models:/"
MODEL = re.compile(r"models:/(?P<name>[^/@:]+)")
VERSION = re.compile(MODEL.pattern + r"(/(?P<version>[0-9]+)|@(?P<alias>[^/@:]+))")
EXPERIMENT = "bert-on-torchserve"  # unless MLFLOW_EXPERIMENT_NAME says another
ARTIFACTS = "model"  # folder of the files in the artifacts of a run
MAX_DESCRIPTION = 5000  # characters, of the servers' databases


def fetch(uri: str, target: Path) -> RegistryVersion:
    """Download the files of a version into a folder.

    Raises:
        ScriptError: no such version or alias, no server, or a transfer that failed.
    """
    match = VERSION.fullmatch(uri)
    if match is None:
        raise ScriptError(f"{uri}: give models:/NAME/VERSION or models:/NAME@ALIAS")
    with _client(uri) as client:
        from mlflow.artifacts import download_artifacts

        name, version = match["name"], match["version"]
        registered = (
            client.get_model_version(name, version)
            if version
            else client.get_model_version_by_alias(name, match["alias"])
        )
        resolved = f"{SCHEME}{name}/{registered.version}"
        say(f"{resolved}: fetching")
        folder = download_artifacts(
            artifact_uri=client.get_model_version_download_uri(name, registered.version), dst_path=str(target)
        )
        return RegistryVersion(resolved, Path(folder), f"{resolved}, run {registered.run_id or ''}")


def target_of(uri: str) -> str:
    """Return the name of models:/NAME; raises ScriptError for anything else."""
    match = MODEL.fullmatch(uri)
    if match is None:
        raise ScriptError(f"--to {uri}: give models:/NAME, MLflow numbers the versions itself")
    return match["name"]


def push(files: Mapping[str, Path | bytes], uri: str, description: str, alias: str | None) -> str:
    """Push files as a new version of a registered model, which is made where it is missing; return its address.

    Args:
        files: path -> the file here, or its content.
        uri: models:/NAME.
        description: of the version; what the database does not take is left out.
        alias: to give to the version, for example champion.

    Raises:
        ScriptError: no server, or one that refused; the run of a push that broke is marked as failed.
    """
    name = target_of(uri)
    with _client(uri) as client, tempfile.TemporaryDirectory(prefix="publish-") as stage:
        for path, content in files.items():
            file = Path(stage) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.symlink_to(content.resolve())
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else client.create_experiment(experiment)
        run = client.create_run(number, run_name=f"publish {name}")
        status = "FAILED"
        try:
            client.log_artifacts(run.info.run_id, stage, ARTIFACTS)
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            source = f"{run.info.artifact_uri}/{ARTIFACTS}"
            made = client.create_model_version(name, source, run.info.run_id, description=description[:MAX_DESCRIPTION])
            status = "FINISHED"
        finally:
            client.set_terminated(run.info.run_id, status)
        if alias:
            client.set_registered_model_alias(name, alias, made.version)
        return f"{SCHEME}{name}/{made.version}"


@contextmanager
def _client(uri: str) -> Iterator[Any]:
    """Yield a client of the server that the environment names; errors of MLflow become one line."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and not os.environ.get("MLFLOW_REGISTRY_URI"):
        raise ScriptError(f"{uri}: set MLFLOW_TRACKING_URI to the address of the MLflow server")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 by default: minutes where nothing answers
    if not sys.stderr.isatty():
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ScriptError(
            f"{uri} needs the client of MLflow: pip install mlflow-skinny (requirements/trackers.txt has the version)"
        ) from None
    try:
        yield MlflowClient()
    except (MlflowException, OSError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ScriptError(f"{uri}: MLflow refused: {line}") from None
