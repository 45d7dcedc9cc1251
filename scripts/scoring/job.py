"""The output folder of one corpus: its plan, its parts, and the check that every row is in it once.

    _plan.json       the files, the parts, the model and the options; a run that finds another plan changes nothing
    part-000000...   one file a part, renamed into place when it is complete
    _manifest.json   written last: the folder is complete if and only if it is there

Readers of a folder of Parquet files (Arrow, pandas, Spark) skip names that begin with `_` or `.`.
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
from scripts.cli.files import check_folder
from scripts.scoring import corpus
from scripts.scoring.output import OUTPUTS
from scripts.scoring.rows import CorpusPart, SourceFile

PLAN, MANIFEST = "_plan.json", "_manifest.json"
FORMAT = 2


@dataclass(frozen=True)
class ScoringJob:
    """One corpus and its output folder."""

    folder: Path
    output_format: str
    sources: tuple[SourceFile, ...]
    parts: tuple[CorpusPart, ...]

    @classmethod
    def open(
        cls, folder: Path, output_format: str, sources: tuple[SourceFile, ...], rows_per_part: int, options: JSON
    ) -> ScoringJob:
        """Plan the work, or continue the plan of the folder.

        Raises:
            ScriptError: the folder belongs to other files, another model or other options.
        """
        plan = plain({"format": FORMAT, "form": output_format, "rows_per_part": rows_per_part, **options})
        plan["sources"] = plain([asdict(source) for source in sources])
        if (folder / PLAN).is_file():
            previous = read(folder / PLAN)
            if other := [name for name in plan if previous.get(name) != plan[name]]:
                raise ScriptError(f"{folder} is of a run with other {' and '.join(other)}: choose another --output")
            return cls(folder, output_format, sources, tuple(CorpusPart(*part) for part in previous["parts"]))
        if folder.exists() and not folder.is_dir():
            raise ScriptError(f"{folder} is a file: choose another --output")
        if folder.exists() and any(folder.iterdir()):
            raise ScriptError(f"{folder} holds something else: choose another --output")
        parts = tuple(corpus.parts(sources, rows_per_part))
        if not parts:
            raise ScriptError("the files have no rows")
        check_folder(folder)
        write(folder / PLAN, {**plan, "parts": [list(asdict(part).values()) for part in parts]})
        return cls(folder, output_format, sources, parts)

    @property
    def rows(self) -> int:
        """Number of rows of all files."""
        return sum(part.rows for part in self.parts)

    def path(self, index: int) -> Path:
        """Return the path of a part's file."""
        return self.folder / f"part-{index:06d}{OUTPUTS[self.output_format].suffix}"

    def missing(self) -> list[int]:
        """Return the indices of the parts without a file."""
        present = {path.name for path in self.folder.glob("part-*")}
        return [index for index in range(len(self.parts)) if self.path(index).name not in present]

    def describe(self, parts: Sequence[int]) -> str:
        """Return the files and row numbers of some parts."""
        chosen = [self.parts[index] for index in sorted(parts)]
        ranges = [
            f"{part.first} to {part.first + part.rows - 1} of {self.sources[part.source].name}" for part in chosen
        ]
        return "; ".join(ranges[:10]) + (f"; and {len(ranges) - 10} other parts" if ranges[10:] else "")

    def manifest(self) -> JSON | None:
        """Return the manifest of a complete folder, None for an incomplete one."""
        return read(self.folder / MANIFEST) if (self.folder / MANIFEST).is_file() else None

    def require_same_model(self, served: JSON) -> None:
        """Compare the model that a worker serves with that of the others, also of earlier runs.

        Raises:
            ScriptError: their answers would differ.
        """
        plan = read(self.folder / PLAN)
        if "serves" not in plan:
            write(self.folder / PLAN, {**plan, "serves": served})
        elif other := [name for name in served if plan["serves"].get(name) != served[name]]:
            differences = ", ".join(f"{name} {plan['serves'].get(name)} and {served[name]}" for name in other)
            raise ScriptError(f"workers differ: {differences}; name a --precision that all of them have")

    def close(self) -> JSON:
        """Read every part; if each row is there once, write the manifest and return it.

        Raises:
            ScriptError: a row is missing, duplicated or of another part.
        """
        if missing := self.missing():
            raise ScriptError(f"{len(missing)} of {len(self.parts)} parts are not there: start again to go on")
        for leftover in [*self.folder.glob(".part-*"), *self.folder.glob(".tries-*")]:
            leftover.unlink()
        rows: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for index, part in enumerate(self.parts):
            name, number = self.sources[part.source].name, part.first
            for row in OUTPUTS[self.output_format].read(self.path(index)):
                if (row.file, row.row) != (name, number):
                    raise ScriptError(f"{self.path(index)} has no row {number} of {name}: remove it and start again")
                number += 1
                if row.error:
                    errors[row.error] += 1
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
    """Return the SHA-256 of an archive, or of all files of a model folder: equal for equal models."""
    from handler.archive import sha256

    if model.is_file():
        return sha256(model)
    if not model.is_dir():
        raise ScriptError(f"no model at {model}")
    files = sorted(path for path in model.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    lines = [f"{path.relative_to(model)} {sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(path: Path) -> JSON:
    """Read a JSON file."""
    return json.loads(path.read_bytes())


def write(path: Path, value: JSON) -> None:
    """Write a JSON file atomically."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    new.replace(path)


def plain(value: JSON) -> JSON:
    """Return a value as JSON reads it back: tuples become lists."""
    return json.loads(json.dumps(value))
