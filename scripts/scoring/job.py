"""The output folder of one corpus: what belongs into it, what is there, and whether that is everything, once.

    _plan.json       the files, the parts, the model and the options; a run that finds another plan changes nothing
    part-000000...   one file a part, renamed into place when it is whole
    _manifest.json   written last: the folder is complete if and only if it is there

Readers of a folder of Parquet (Arrow, pandas, Spark) pass over names that begin with `_` or `.`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.scoring import corpus
from scripts.scoring.corpus import Part, Source
from scripts.scoring.output import OUTPUTS

PLAN, MANIFEST = "_plan.json", "_manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Job:
    """One corpus on its way into one folder."""

    folder: Path
    form: str
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]

    @classmethod
    def open(cls, folder: Path, form: str, sources: tuple[Source, ...], rows_per_part: int, options: JSON) -> Job:
        """Plan the work, or go on with the plan that a folder has.

        Raises:
            ScriptError: the folder is that of other files, another model or other options.
        """
        wanted = plain({"format": FORMAT, "form": form, "rows_per_part": rows_per_part, **options})
        wanted["sources"] = plain([asdict(source) for source in sources])
        if (folder / PLAN).is_file():
            known = read(folder / PLAN)
            if other := [name for name in wanted if known.get(name) != wanted[name]]:
                raise ScriptError(f"{folder} is of a run with other {' and '.join(other)}: choose another --output")
            return cls(folder, form, sources, tuple(Part(*part) for part in known["parts"]))
        if folder.exists() and any(folder.iterdir()):
            raise ScriptError(f"{folder} holds something else: choose another --output")
        parts = tuple(corpus.parts(sources, rows_per_part))
        if not parts:
            raise ScriptError("the files have no rows")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / PLAN, {**wanted, "parts": [list(asdict(part).values()) for part in parts]})
        return cls(folder, form, sources, parts)

    @property
    def rows(self) -> int:
        """How many rows the files have."""
        return sum(part.rows for part in self.parts)

    def path(self, index: int) -> Path:
        """Name the file of a part."""
        return self.folder / f"part-{index:06d}{OUTPUTS[self.form].suffix}"

    def missing(self) -> list[int]:
        """List the parts that are not there."""
        there = {path.name for path in self.folder.glob("part-*")}
        return [index for index in range(len(self.parts)) if self.path(index).name not in there]

    def places(self, parts: Sequence[int]) -> str:
        """Say where the rows of some parts are."""
        found = [self.parts[index] for index in sorted(parts)]
        told = [f"{part.first} to {part.first + part.rows - 1} of {self.sources[part.source].name}" for part in found]
        return "; ".join(told[:10]) + (f"; and {len(told) - 10} other parts" if told[10:] else "")

    def manifest(self) -> JSON | None:
        """Return what a complete folder says of itself, or None."""
        return read(self.folder / MANIFEST) if (self.folder / MANIFEST).is_file() else None

    def agree(self, serves: JSON) -> None:
        """Hold what a worker serves against what others did, also in runs before this one.

        Raises:
            ScriptError: it would answer differently.
        """
        plan = read(self.folder / PLAN)
        if "serves" not in plan:
            write(self.folder / PLAN, {**plan, "serves": serves})
        elif other := [name for name in serves if plan["serves"].get(name) != serves[name]]:
            told = ", ".join(f"{name} {plan['serves'].get(name)} and {serves[name]}" for name in other)
            raise ScriptError(f"workers differ: {told}; name a --precision that all of them have")

    def close(self) -> JSON:
        """Read every part back; when each row is there once, write the manifest and return it.

        Raises:
            ScriptError: a row is missing, is there twice or belongs elsewhere.
        """
        if missing := self.missing():
            raise ScriptError(f"{len(missing)} of {len(self.parts)} parts are not there: start again to go on")
        for leftover in [*self.folder.glob(".part-*"), *self.folder.glob(".tries-*")]:
            leftover.unlink()
        rows: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for index, part in enumerate(self.parts):
            name, number = self.sources[part.source].name, part.first
            for told in OUTPUTS[self.form].read(self.path(index)):
                if (told.file, told.row) != (name, number):
                    raise ScriptError(f"{self.path(index)} has no row {number} of {name}: remove it and start again")
                number += 1
                if told.error:
                    errors[told.error] += 1
            if number != part.first + part.rows:
                raise ScriptError(f"{self.path(index)} has no row {number} of {name}: remove it and start again")
            rows[name] += part.rows
        plan = read(self.folder / PLAN)
        manifest = {
            "format": FORMAT,
            "rows": self.rows,
            "answered": self.rows - errors.total(),
            "errors": dict(errors),
            "parts": len(self.parts),
            "files": {source.name: rows[source.name] for source in self.sources},
            **{name: plan[name] for name in ("model", "parameters", "serves")},
        }
        write(self.folder / MANIFEST, manifest)
        return manifest


def fingerprint(model: Path) -> str:
    """Return the SHA-256 of an archive, or of every file of a model folder: equal for equal models."""
    from handler.archive import sha256

    if model.is_file():
        return sha256(model)
    if not model.is_dir():
        raise ScriptError(f"no model at {model}")
    files = sorted(path for path in model.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(model)} {sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(path: Path) -> JSON:
    """Read a file of this room."""
    return json.loads(path.read_bytes())


def write(path: Path, value: JSON) -> None:
    """Write a file of this room at once."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    new.replace(path)


def plain(value: JSON) -> JSON:
    """Return a value as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))
