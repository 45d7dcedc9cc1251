"""Manifests of deploy/: reading one, and what kustomize makes of a patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def load(path: Path) -> Any:
    """Read one YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def merged(value: Any, patch: Any) -> Any:
    """Merge a patch as kustomize does: mappings by key, null removes, lists of named objects by name."""
    if isinstance(value, dict) and isinstance(patch, dict):
        both = {**value, **{key: merged(value.get(key), patch[key]) for key in patch}}
        return {key: each for key, each in both.items() if each is not None}
    if isinstance(value, list) and isinstance(patch, list):
        names = [each["name"] for each in value]
        changes = {each["name"]: each for each in patch}
        return [merged(each, changes.get(each["name"], {})) for each in value] + [
            each for each in patch if each["name"] not in names
        ]
    return patch
