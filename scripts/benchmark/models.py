"""Models to measure: a folder, an archive, or a classifier with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.engine import int8_weights
from handler.engine.config_problems import read_config
from handler.engine.int8_weights import has_float_weights
from handler.engine.precision import supported
from handler.errors import StartupError
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding, EncodingOptions
from handler.tokenization import Tokenizer
from scripts.archives.build import ArchiveContents, build
from scripts.archives.calibration import Calibration
from scripts.benchmark.flops import EncoderShape
from scripts.benchmark.synthetic import random_classifier, word_tokenizer
from scripts.benchmark.texts import SOURCES
from scripts.cli.console import ROOT, ScriptError
from scripts.client.unpacking import extract

DEFAULTS = ("models/intents", "random:12x768")


@dataclass(frozen=True)
class BenchmarkModel:
    """One model to measure."""

    name: str
    folder: Path  # of the model, or of an unpacked archive
    config: ModelConfig
    scratch: Path  # where archives of it may be built
    is_random: bool = False  # its labels mean nothing
    mar: Path | None = None  # the archive it was read from

    @property
    def model_folder(self) -> Path:
        """The folder of weights and tokenizer."""
        return self.folder / archive.MODEL if (self.folder / archive.MANIFEST).is_file() else self.folder

    @cached_property
    def shape(self) -> EncoderShape:
        """The shape of its encoder."""
        return EncoderShape.of(read_config(self.model_folder))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The handler's tokenizer for it."""
        return Tokenizer(self.model_folder, read_config(self.model_folder), self.config.handler)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode texts, each truncated to the longest sequence of the model."""
        encoded = self.tokenizer.encode([(text, None) for text in texts], [EncodingOptions()] * len(texts))
        encodings = []
        for windows in encoded:
            if not isinstance(windows, list):
                raise ScriptError(f"{self.name} refuses a text of the benchmark: {windows}")
            encodings.append(windows[0])
        return encodings

    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, special tokens included."""
        return [len(encoding) for encoding in self.encode(texts)]

    def precisions(self, device: torch.device) -> list[str]:
        """Return the precisions that the machine supports and that the model has weights for."""
        floats = list(reversed(supported(device))) if has_float_weights(self.model_folder) else []
        return [*floats, *(["int8"] if int8_weights.supported(device) else [])]

    def settings(self, precision: str, **more: object) -> ModelConfig:
        """Return the settings of the model at a precision; raises ConfigError for an unknown one."""
        handler = {**vars(self.config.handler), "precision": precision, **more}
        return replace(self.config, handler=ServingConfig(**handler))

    def load(self, precision: str, device: torch.device, *, packed: bool = True) -> Predictor:
        """Load the model at a precision as it is served; not packed, with transformers' modules on padded batches.

        Raises:
            StartupError: the model cannot be served at this precision.
            ScriptError: it has no weights in int8.
        """
        threads, folder = torch.get_num_threads(), self.model_folder
        try:
            if self.mar is not None and (precision != "int8" or (folder / int8_weights.FILE).is_file()):
                folder = folder.parent
            elif packed:
                folder = unpack(self.pack(precision), self.scratch / f"unpacked-{precision}")
            return load_predictor(folder, self.settings(precision).handler, device, packed=packed)
        finally:
            torch.set_num_threads(threads)

    def pack(self, precision: str, config: ModelConfig | None = None) -> Path:
        """Return an archive of the model at a precision, with other settings than its own where `config` has them.

        Weights in int8 are the model's own; a model without them is calibrated on the texts of the benchmark.
        """
        if (
            precision == "int8"
            and (self.model_folder / int8_weights.FILE).is_file()
            and config is None
            and self.mar is not None
        ):
            return self.mar
        store = self.scratch / "store"
        store.mkdir(exist_ok=True)
        name = f"{self.name}-{precision}"
        if config is None and (store / f"{name}.mar").is_file():
            return store / f"{name}.mar"
        calibration = Calibration(SOURCES[0], SOURCES[-1], min_accuracy_ratio=0.0) if precision == "int8" else None
        return build(
            ArchiveContents(self.model_folder, name, "1.0", config or self.settings(precision), calibration), store
        )


def benchmark_models(names: Sequence[str], stack: ExitStack) -> list[BenchmarkModel]:
    """Return the models with these names: folders, archives, or random:[FAMILY:]LAYERSxWIDTH."""
    return [benchmark_model(name, stack) for name in names]


def benchmark_model(name: str, stack: ExitStack) -> BenchmarkModel:
    """Prepare one model; the stack removes its temporary files."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    if name.startswith("random:"):
        family, _, size = name.removeprefix("random:").rpartition(":")
        layers, _, width = size.partition("x")
        if not (layers.isdigit() and width.isdigit() and int(width) % 64 == 0 and int(width)):
            raise ScriptError(
                f"{name}: say random:LAYERSxWIDTH or random:FAMILY:LAYERSxWIDTH, with a width that 64 divides, e.g. "
                "random:12x768 or random:modernbert:22x768"
            )
        folder = random_classifier(
            scratch / "model", int(layers), int(width), base_tokenizer(), family=family or "bert"
        )
        return BenchmarkModel(name.replace(":", "-"), folder, defaults(), scratch, is_random=True)
    path = Path(name) if Path(name).exists() else ROOT / name
    if path.is_file():
        folder = unpack(path, scratch / "unpacked")
        return BenchmarkModel(path.stem, folder, ModelConfig.read(folder / archive.MODEL_CONFIG), scratch, mar=path)
    if not (path / "config.json").is_file():
        raise ScriptError(f"no model at {name}: give a folder, a .mar or random:[FAMILY:]LAYERSxWIDTH")
    return BenchmarkModel(path.name, path, defaults(), scratch)


def defaults() -> ModelConfig:
    """Return the settings of the project, as scripts/package.py takes them."""
    return ModelConfig.read(ROOT / archive.MODEL_CONFIG)


def default_names() -> list[str]:
    """Return the small model that the quickstart trains, or a random one of its size, and a bert-base."""
    return [name if (ROOT / name).is_dir() or ":" in name else "random:6x384" for name in DEFAULTS]


def base_tokenizer() -> PreTrainedTokenizerBase:
    """Return the tokenizer of models/base; without it, one of synthetic words."""
    base = ROOT / "models" / "base"
    load: Any = AutoTokenizer.from_pretrained
    tokenizer: PreTrainedTokenizerBase = load(base, local_files_only=True) if base.is_dir() else word_tokenizer()
    return tokenizer


def unpack(mar: Path, folder: Path) -> Path:
    """Unpack an archive, unless the folder is there already."""
    if not folder.is_dir():
        folder.mkdir()
        extract(mar, folder)
    return folder


def try_load(model: BenchmarkModel, precision: str, device: torch.device) -> Predictor | str:
    """Load a model, or return the reason why it cannot be measured at this precision."""
    try:
        return model.load(precision, device)
    except (StartupError, ScriptError) as error:
        return f"{model.name} at {precision} is skipped: {error}"
