"""Where a model comes from: repositories by commit, files by SHA-256, and what was done to them before packing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handler.protocol import JSON


@dataclass(frozen=True)
class Origin:
    """A folder or a repository that files were read from."""

    role: str  # "model", "adapter", "base model"
    name: str | None  # an id of the hub; None: a local folder, whose path says nothing elsewhere
    files: Mapping[str, str]  # path -> SHA-256
    revision: str | None = None  # as requested
    commit: str | None = None
    license: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return what is known, for provenance.json and training.json."""
        return {key: value for key, value in vars(self).items() if value not in (None, {})}


@dataclass(frozen=True)
class Provenance:
    """The origins of a model, and the steps that made one folder of them."""

    origins: tuple[Origin, ...] = ()
    steps: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, JSON]:
        """Return the content of provenance.json."""
        return {"origins": [origin.to_json() for origin in self.origins], "steps": list(self.steps)}

    @property
    def base_models(self) -> list[str]:
        """The ids on the hub that the model was made from, the nearest first."""
        return list(dict.fromkeys(origin.name for origin in self.origins if origin.name))

    @property
    def license(self) -> str | None:
        """The license of the nearest origin that names one."""
        return next((origin.license for origin in self.origins if origin.license), None)

    def lines(self) -> list[str]:
        """Return a section of the model card; nothing for a local folder that is packed as it is."""
        if not self.origins and not self.steps:
            return []
        lines = ["## Provenance", ""]
        for origin in self.origins:
            where = f"{origin.name}, commit {origin.commit}" if origin.name else "a local folder"
            asked = f" (revision {origin.revision})" if origin.revision not in (None, origin.commit) else ""
            licensed = f", license {origin.license}" if origin.license else ""
            lines.append(f"- {origin.role}: {where}{asked}{licensed}")
            lines += [f"  - {path}: SHA-256 {digest}" for path, digest in sorted(origin.files.items())]
        return [*lines, *(f"- {step}" for step in self.steps), ""]


@dataclass(frozen=True)
class RegistryVersion:
    """A version that was fetched from a registry of models."""

    uri: str  # with the version or the digest, also where an alias or a tag was given
    folder: Path
    provenance: str  # the address, and what the registry says of it
