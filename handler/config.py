"""What an operator can set, frozen and validated.

`model-config.yaml` has two readers: TorchServe takes the keys of `FRONTEND` at the top level, and silently ignores a
value of the wrong type; the handler takes the section `handler`. Both are checked here, when an archive is built and
again when a worker starts. An unknown key is refused with the nearest valid one.
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import yaml

from handler.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8"]
Overflow = Literal["truncate", "window", "refuse"]
WindowMerge = Literal["mean", "max", "weighted"]


@dataclass(frozen=True)
class Frontend:
    """TorchServe's own settings of a model; the names are TorchServe's. None leaves TorchServe's default."""

    minWorkers: int | None = None  # noqa: N815
    maxWorkers: int | None = None  # noqa: N815
    batchSize: int | None = None  # noqa: N815
    maxBatchDelay: int | None = None  # noqa: N815 - ms
    responseTimeout: int | None = None  # noqa: N815 - s
    startupTimeout: int | None = None  # noqa: N815 - s
    maxRetryTimeoutInSec: int | None = None  # noqa: N815
    clientTimeoutInMills: int | None = None  # noqa: N815
    jobQueueSize: int | None = None  # noqa: N815
    deviceType: Literal["cpu", "gpu"] | None = None  # noqa: N815
    deviceIds: list[int] | None = None  # noqa: N815

    def __post_init__(self) -> None:
        _check(self, "")
        if self.minWorkers and self.maxWorkers and self.minWorkers > self.maxWorkers:
            raise ConfigError(f"minWorkers is {self.minWorkers}, more than maxWorkers, {self.maxWorkers}")
        if self.batchSize and (self.jobQueueSize or 100) < self.batchSize:
            raise ConfigError(f"jobQueueSize is {self.jobQueueSize or 100}, less than one batch of {self.batchSize}")


@dataclass(frozen=True)
class ServingConfig:
    """The handler's settings of a model."""

    task: str | None = None  # by default what the model's own config says
    precision: Precision = "fp32"
    overflow: Overflow | None = None  # what happens to a text longer than max_length; by default what suits the task
    stride: int = 128  # tokens that neighbouring windows share, at most half of a window
    window_merge: WindowMerge = "mean"  # of the labels of the windows of one text
    max_length: int | None = None  # tokens of one sequence; by default the model's limit
    max_batch_tokens: int | None = None  # tokens of one forward pass; by default 1024 on a CPU, on a GPU tried
    max_texts: int = 1000  # of one request
    max_characters: int = 100_000  # of one text
    top_k: int = 5  # labels of one answer, unless the request says otherwise
    explain_seconds: int = 10  # that the explanations of one batch may take, while its other requests wait
    threads: int | None = None  # of one worker; by default cores / minWorkers
    compile: Literal["auto", "never"] = "auto"  # whether a GPU gets fused kernels and graphs, where they work

    def __post_init__(self) -> None:
        _check(self, "handler.")

    def threads_of(self, n_workers: int, cores: int) -> int:
        """Return the threads of one worker among several that share some cores."""
        return self.threads or max(1, cores // max(1, n_workers))


def usable_cores() -> int:
    """Count the cores this process may use: affinity and, in a container, its share of CPU time (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


@dataclass(frozen=True)
class ModelConfig:
    """A whole `model-config.yaml`."""

    frontend: Frontend = field(default_factory=Frontend)
    handler: ServingConfig = field(default_factory=ServingConfig)

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read and validate a file.

        Raises:
            ConfigError: not readable as YAML, or any setting that would not be obeyed.
        """
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
        return cls.from_mapping(settings)

    @classmethod
    def from_mapping(cls, settings: object) -> ModelConfig:
        """Validate what a YAML file holds; an empty file is all defaults."""
        if not isinstance(settings, Mapping | None):
            raise ConfigError(f"model-config.yaml must hold keys and values, got {type(settings).__name__}")
        frontend = dict(settings or {})
        handler = frontend.pop("handler", None)
        if not isinstance(handler, Mapping | None):
            raise ConfigError(f"handler must hold keys and values, got {type(handler).__name__}")
        _refuse_unknown(frontend, [*_names(Frontend), "handler"], "")
        _refuse_unknown(handler or {}, _names(ServingConfig), "handler.")
        return cls(Frontend(**frontend), ServingConfig(**handler or {}))

    def to_yaml(self) -> str:
        """Write the inverse of `read`: only what is set, TorchServe's keys first."""
        frontend = {key: value for key, value in asdict(self.frontend).items() if value is not None}
        handler = {key: value for key, value in asdict(self.handler).items() if value is not None}
        text: str = yaml.safe_dump({**frontend, "handler": handler}, sort_keys=False)
        return text


def _names(section: type) -> list[str]:
    return [field.name for field in fields(section)]


def _refuse_unknown(settings: Iterable[object], known: list[str], prefix: str) -> None:
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"unknown setting {prefix}{key}: {hint}")


def _check(section: Frontend | ServingConfig, prefix: str) -> None:
    """Hold every field to its annotation; every number is positive (TorchServe takes a delay of 0 for 100 ms)."""
    hints = typing.get_type_hints(type(section))
    for setting in fields(section):
        value, name = getattr(section, setting.name), prefix + setting.name
        accepted = _accepted(hints[setting.name])
        if not any(_fits(value, kind) for kind in accepted):
            said = ", ".join(_spoken(kind) for kind in accepted if kind is not type(None))
            raise ConfigError(f"{name} is {value!r}, accepted: {said}")
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name} is {value}, accepted: 1 or more")


def _accepted(hint: object) -> list[object]:
    parts = (
        typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else ()
    )
    flat: list[object] = []
    for part in parts or (hint,):
        flat += typing.get_args(part) if typing.get_origin(part) is Literal else [part]
    return flat


def _fits(value: object, kind: object) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    return isinstance(value, kind) if isinstance(kind, type) else value == kind


def _spoken(kind: object) -> str:
    names = {int: "a whole number", str: "a word"}
    if isinstance(kind, type) and kind in names:
        return names[kind]
    return "a list of whole numbers" if typing.get_origin(kind) is list else str(kind)
