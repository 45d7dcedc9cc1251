"""Registries of models by the scheme of an address: models:/NAME/VERSION of MLflow, oci://HOST/REPOSITORY:TAG."""

from __future__ import annotations

from pathlib import Path

from scripts.pretrained import mlflow_registry, oci_registry
from scripts.pretrained.provenance import RegistryVersion

FETCH = {mlflow_registry.SCHEME: mlflow_registry.fetch, oci_registry.SCHEME: oci_registry.fetch}


def is_registered(word: str) -> bool:
    """Return whether a word is an address in a registry.

    >>> is_registered("models:/mine@champion"), is_registered("oci://registry:5000/mine:1"), is_registered("ORG/NAME")
    (True, True, False)
    """
    return word.startswith(tuple(FETCH))


def fetch(uri: str, target: Path) -> RegistryVersion:
    """Download the files of a version into a folder; raises ScriptError where there is none."""
    return next(fetch for scheme, fetch in FETCH.items() if uri.startswith(scheme))(uri, target)
