"""The settings of an operator, frozen and validated.

`model-config.yaml` has two readers: TorchServe reads the keys of `Frontend` at the top level, and silently ignores a
value of the wrong type; the handler reads the section `handler`. Both are validated here, when an archive is built and
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

MAX_YAML_CHARACTERS = 65_536
MAX_YAML_DEPTH = 10

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "fp8"]
Overflow = Literal["truncate", "window", "refuse"]
WindowMerge = Literal["mean", "max", "weighted"]

DEADLINE_FRACTION = 0.7  # of responseTimeout, after which TorchServe kills the worker; leaves time for a forward pass
DEFAULT_RESPONSE_TIMEOUT_S = 120  # TorchServe's
MOST_OF_JAVA = 2**31 - 1  # TorchServe reads 32 bits
MOST = {  # of settings with which a worker would end for lack of memory or of threads before it answers
    "max_batch_tokens": 1 << 20,
    "threads": 1024,
}


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
        _validate(self, "")
        if self.minWorkers and self.maxWorkers and self.minWorkers > self.maxWorkers:
            raise ConfigError(f"minWorkers is {self.minWorkers}, more than maxWorkers, {self.maxWorkers}")
        if self.batchSize and (self.jobQueueSize or 100) < self.batchSize:
            raise ConfigError(f"jobQueueSize is {self.jobQueueSize or 100}, less than one batch of {self.batchSize}")

    @property
    def deadline_s(self) -> float:
        """Seconds from the begin of a batch after which no further computation of it is begun."""
        return DEADLINE_FRACTION * (self.responseTimeout or DEFAULT_RESPONSE_TIMEOUT_S)


@dataclass(frozen=True)
class ServingConfig:
    """The handler's settings of a model."""

    task: str | None = None  # by default the task of the model's architecture
    precision: Precision = "fp32"
    overflow: Overflow | None = None  # of a text longer than max_length; by default the first that the task supports
    stride: int = 128  # tokens shared by neighbouring windows, at most half of a window
    window_merge: WindowMerge = "mean"  # of the labels of the windows of one text
    max_length: int | None = None  # tokens of one sequence; by default the model's limit
    max_batch_tokens: int | None = None  # tokens of one forward pass; default: 1024 on a CPU, calibrated on a GPU
    max_texts: int = 1000  # of one request
    max_characters: int = 100_000  # of one text
    top_k: int = 5  # labels of one answer, unless the request sets it
    explain_seconds: int = 10  # for the explanations of one batch, while its other requests wait
    threads: int | None = None  # of one worker; by default cores / minWorkers
    compile: Literal["auto", "never"] = "auto"  # fused kernels and CUDA graphs on a GPU that supports them

    def __post_init__(self) -> None:
        _validate(self, "handler.")

    def threads_of(self, n_workers: int, cores: int) -> int:
        """Return the threads of one worker among several that share some cores."""
        return self.threads or max(1, cores // max(1, n_workers))


def usable_cores() -> int:
    """Return the number of cores this process may use, by its affinity and its CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


@dataclass(frozen=True)
class ModelConfig:
    """The settings of one `model-config.yaml`."""

    frontend: Frontend = field(default_factory=Frontend)
    handler: ServingConfig = field(default_factory=ServingConfig)

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read and validate a file.

        Raises:
            ConfigError: not YAML, or a setting that TorchServe or the handler would ignore.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
        return cls.from_yaml(text, path.name)

    @classmethod
    def from_yaml(cls, text: str, name: str = "model-config.yaml") -> ModelConfig:
        """Read and validate the text of a file.

        Raises:
            ConfigError: as `read`; also for what takes more memory than its size says: aliases, nesting, a long file.
        """
        if len(text) > MAX_YAML_CHARACTERS:
            raise ConfigError(f"{name} has more than {MAX_YAML_CHARACTERS} characters")
        try:
            _refuse_expansion(text, name)
            settings = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:  # ValueError: no such date, a number of thousands of digits
            raise ConfigError(f"{name} cannot be read: {' '.join(str(error).split())}") from error
        return cls.from_mapping(settings)

    @classmethod
    def from_mapping(cls, settings: object) -> ModelConfig:
        """Validate the content of a YAML file; an empty file means all defaults."""
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
        """Return the settings as YAML, the inverse of `read`: those that are set, TorchServe's first."""
        frontend = {key: value for key, value in asdict(self.frontend).items() if value is not None}
        handler = {key: value for key, value in asdict(self.handler).items() if value is not None}
        text: str = yaml.safe_dump({**frontend, "handler": handler}, sort_keys=False)
        return text


def _refuse_expansion(text: str, name: str) -> None:
    """Raise for aliases, by which a few lines become billions of values, and for deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{name} has the alias *{event.anchor}: write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise ConfigError(f"{name} is nested more than {MAX_YAML_DEPTH} deep")


def _names(section: type) -> list[str]:
    return [field.name for field in fields(section)]


def _refuse_unknown(settings: Iterable[object], accepted: list[str], prefix: str) -> None:
    for key in settings:
        if key not in accepted:
            nearest = difflib.get_close_matches(str(key), accepted, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{nearest[0]}?" if nearest else f"known: {', '.join(accepted)}"
            raise ConfigError(f"unknown setting {prefix}{key}: {hint}")


def _validate(section: Frontend | ServingConfig, prefix: str) -> None:
    """Check every field against its annotation; a number must be positive (TorchServe reads a delay of 0 as 100 ms)."""
    hints = typing.get_type_hints(type(section))
    for setting in fields(section):
        value, name = getattr(section, setting.name), prefix + setting.name
        accepted = _accepted(hints[setting.name])
        if not any(_matches(value, type_) for type_ in accepted):
            names = ", ".join(_type_name(type_) for type_ in accepted if type_ is not type(None))
            raise ConfigError(f"{name} is {value!r}, accepted: {names}")
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name} is {value}, accepted: 1 or more")
        if isinstance(value, int) and value > (most := MOST.get(setting.name, MOST_OF_JAVA)):
            raise ConfigError(f"{name} is {value}, accepted: at most {most}")


def _accepted(hint: object) -> list[object]:
    """Return the types and literal values of an annotation."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    accepted: list[object] = []
    for member in typing.get_args(hint) if is_union else (hint,):
        accepted += typing.get_args(member) if typing.get_origin(member) is Literal else [member]
    return accepted


def _matches(value: object, accepted: object) -> bool:
    if accepted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(accepted) is list:
        return isinstance(value, list) and all(_matches(item, typing.get_args(accepted)[0]) for item in value)
    return isinstance(value, accepted) if isinstance(accepted, type) else value == accepted


def _type_name(accepted: object) -> str:
    names = {int: "a whole number", str: "a word"}
    if isinstance(accepted, type) and accepted in names:
        return names[accepted]
    return "a list of whole numbers" if typing.get_origin(accepted) is list else str(accepted)
