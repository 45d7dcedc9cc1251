"""Build a TorchServe archive from a model folder: stage the files, compute the self-test, call the archiver.

The archive holds weights, tokenizer, code, settings, a model card, an OpenAPI document, the SHA-256 of every file and
the outputs of the self-test (golden.json). The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler import archive
from handler.config import ModelConfig
from handler.errors import StartupError
from handler.protocol import JSON
from scripts.archives.model_card import model_card
from scripts.archives.store import Archive, Store, ranking_bytes
from scripts.cli.console import ROOT, ScriptError, say
from scripts.client.settings import effective
from scripts.pretrained.files import MODEL_FILES, SETFIT_CONFIG, SETFIT_HEAD, other_weights_advice, other_weights_in
from scripts.pretrained.provenance import Provenance

# torch and transformers take seconds to import: functions import them, so that --help and mistakes are quick.
if TYPE_CHECKING:
    from huggingface_hub import EvalResult
    from transformers import PretrainedConfig

    from handler.confidence import ScoreCalibration
    from scripts.archives.calibration import Calibration
    from scripts.archives.score_calibration import ScoreExamples

EMBEDDINGS = ("feature-extraction", "sentence-similarity")  # tasks that need no head
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


@dataclass(frozen=True)
class ArchiveContents:
    """What goes into an archive."""

    model: Path  # folder with weights in safetensors
    name: str
    version: str
    config: ModelConfig
    calibration: Calibration | None = None  # examples for int8 or fp8
    provenance: Provenance = field(default_factory=Provenance)  # where the folder comes from, if not from here
    scores: ScoreExamples | None = None  # to calibrate the scores on
    evaluated: Sequence[EvalResult] = ()  # metrics for the model card, see `read_model_index`

    def check(self) -> None:
        """Raise ScriptError for a name that TorchServe cannot take, or a precision that does not fit the examples."""
        if not archive.NAME.fullmatch(self.name):
            raise ScriptError(f"--name {self.name}: use at most 128 letters, digits, '_', '-' and '.'")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", self.version):
            raise ScriptError(f"--version {self.version}: use numbers and dots, e.g. 1.0")
        precision = self.config.handler.precision
        if self.calibration is None and precision in archive.GOLDEN_BY_PRECISION:
            raise ScriptError(f"--precision {precision} needs --calibration FILE, with examples of what will be asked")
        if self.calibration is not None and precision not in ("auto", *archive.GOLDEN_BY_PRECISION):
            raise ScriptError("--calibration is for --precision int8, fp8 or auto")


def build(contents: ArchiveContents, store: Path) -> Path:
    """Build `store`/NAME.mar and return its path; another version that was there is kept (scripts/archives/store.py).

    Raises:
        ScriptError: a name that TorchServe cannot take, or no packable model in the folder.
        StartupError: what would also keep a worker from becoming ready.
    """
    contents.check()
    if not store.is_dir():
        raise ScriptError(f"--model-store {store} is not a folder")
    name, version = contents.name, contents.version
    with staging() as scratch:
        stage = scratch / "stage"
        fill(stage, contents)
        packed = run_archiver(stage, name, version, scratch)
        normalised = scratch / "normalised.mar"
        normalise(packed, normalised)
        target = store / f"{name}.mar"
        Store(store).keep(name, instead_of=version)
        put(stage / archive.OPENAPI, store / f"{name}.openapi.json")
        put(normalised, target)
    warn_of_large_answers(target, contents.config)
    from handler.engine.config_problems import read_config

    if note := other_family(read_config(contents.model)):
        say(f"note: {note}")
    return target


def fill(stage: Path, contents: ArchiveContents) -> None:
    """Write all that an archive holds into a folder, and load it once; raises as `build`."""
    stage_files(stage, contents.model, contents.config)
    try:
        add_metadata(stage, contents)
    except StartupError as error:  # names the folder that a person knows
        raise type(error)(str(error).replace(str(stage / archive.MODEL), str(contents.model))) from error


def warn_of_large_answers(built: Path, config: ModelConfig) -> None:
    """Print a note where a valid request can have an answer that a server with config.properties does not send."""
    file = ROOT / "config.properties"
    built_archive = Archive.read(built)
    if not file.is_file() or built_archive.manifest.get("task") != "text-classification":
        return
    labels = built_archive.labels()
    size = ranking_bytes(labels, config.handler.max_texts)
    limit = effective(file)["max_response_size"].value
    if limit.isdecimal() and size > int(limit):
        say(
            f"note: {config.handler.max_texts} texts with all {len(labels)} labels are up to {size / 1e6:.0f} MB, more "
            f"than max_response_size of {file.name} ({int(limit) / 1e6:.0f} MB): raise it, or use a smaller --max-texts"
        )


def put(file: Path, target: Path) -> None:
    """Move a file to a path in one step, from whatever file system; two processes may do so at once."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.move(file, partial)
    partial.replace(target)


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """Yield a temporary folder: the archiver stages under the model's name, so two builds would collide in one."""
    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        yield Path(folder)


def stage_files(stage: Path, model: Path, config: ModelConfig) -> None:
    """Put code, model and settings where `handler.archive` says; model files are linked, not copied."""
    from handler.sentence_modules import CLASSIFIER, module_files
    from handler.weight_files import weight_files

    if (model / "checkpoints" / "run.json").is_file() and not (model / "training.json").is_file():
        raise ScriptError(
            f"--model {model}: its training is not finished: wait for it, or go on with train.py --resume"
        )
    if not (model / "config.json").is_file():
        modules = model / "modules.json"
        kinds = re.findall(r'"type":\s*"[\w.]*?(\w+)"', modules.read_text("utf-8")) if modules.is_file() else []
        if kinds:
            raise ScriptError(
                f"--model {model}: modules.json lists {', '.join(kinds)}, and served is a Transformer in the folder "
                "itself, then a Pooling: give the folder of one Transformer to serve it alone"
            )
        raise ScriptError(f"--model {model}: no config.json; give a folder that train.py or save_pretrained wrote")
    weights = weight_files(model)
    if not weights:
        others = other_weights_in(str(path.relative_to(model)) for path in model.rglob("*"))
        if others:
            advice = other_weights_advice(others[0])
            raise ScriptError(
                f"--model {model}: no model.safetensors; there is {others[0]}, which is not read: {advice}"
            )
        raise ScriptError(f"--model {model}: no model.safetensors; save the model again with save_pretrained")
    has_classifier = (model / CLASSIFIER / "config.json").is_file()
    if (model / SETFIT_CONFIG).is_file() and not has_classifier and config.handler.task not in EMBEDDINGS:
        raise ScriptError(
            f"--model {model}: its classifier is that of SetFit in {SETFIT_HEAD}, a pickle, which can run code when it "
            "is read: the same command with --convert-pickle converts a logistic regression, reading its numbers "
            f"only, or serve the embeddings (--task {' or '.join(EMBEDDINGS)})"
        )
    if '"auto_map"' in (model / "config.json").read_text("utf-8", "replace"):
        say(
            "note: config.json names code of its own (auto_map), which is never run: the class of transformers computes"
        )
    code = stage / archive.CODE
    shutil.copytree(ROOT / "handler", code, ignore=shutil.ignore_patterns("__pycache__", "bert_handler.py"))
    shutil.copy(ROOT / "handler" / "bert_handler.py", stage)
    (stage / archive.MODEL).mkdir()
    for pattern in MODEL_FILES:
        for file in model.glob(pattern):
            if file.suffix != ".safetensors" or file in weights:  # int8 is computed anew from the weights beside it
                (stage / archive.MODEL / file.name).symlink_to(file.resolve())
    for path in module_files(model):
        (stage / archive.MODEL / path).parent.mkdir(exist_ok=True)
        (stage / archive.MODEL / path).symlink_to((model / path).resolve())
    if any(model.glob("*.model")) and not (model / "tokenizer.json").is_file():
        from handler.python_tokenizer import is_converted
        from handler.tokenization import as_in_file, load_tokenizer

        tokenizer: Any = as_in_file(model / "tokenizer.json", load_tokenizer(model))
        if not is_converted(tokenizer):  # no worker needs sentencepiece
            tokenizer.backend_tokenizer.save(str(stage / archive.MODEL / "tokenizer.json"))
    (stage / archive.MODEL_CONFIG).write_text(config.to_yaml(), encoding="utf-8")


def other_family(config: PretrainedConfig) -> str | None:
    """Return what to note where the class that config.json names is of another family than its model_type."""
    from transformers.models.auto import modeling_auto

    named = next(iter(config.architectures or []), None)
    mappings = [mapping for name, mapping in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES")]
    by_family = [(family, names) for mapping in mappings for family, names in mapping.items()]
    families = {family for family, names in by_family if named in ([names] if isinstance(names, str) else names)}
    if not families or config.model_type in families:
        return None
    return (
        f"config.json names {named}, a class of the family {min(families)}, and the model_type {config.model_type}, "
        "which counts: correct the one that is wrong"
    )


def add_metadata(stage: Path, contents: ArchiveContents) -> None:
    """Write self-test outputs, model card, OpenAPI document and manifest, then load the stage once to check them.

    Args:
        stage: with the files of the archive.
        contents: of which the folder, as it was given, is what the reference is computed from.
    """
    import torch

    from handler import openapi
    from handler.engine.lean_import import import_transformers
    from handler.engine.precision import supported
    from handler.loading import load_predictor

    import_transformers(with_models=True)  # before `golden` does, without the optional libraries: a second less
    from scripts.archives.golden import expected_outputs, rounded
    from scripts.archives.score_report import card_section

    config, name, version = contents.config, contents.name, contents.version
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order every time
    model = stage / archive.MODEL
    exact = load_predictor(model, replace(config.handler, precision="fp32"), name=name, version=version)
    archive.write_golden(stage, rounded(expected_outputs(contents.model, config.handler, exact)))
    add = add_fp8 if config.handler.precision == "fp8" else add_int8
    precision_section = add(stage, config, contents.calibration) if contents.calibration else []
    if contents.scores:
        by_precision = add_score_calibration(stage, config, contents.scores)
        exact.calibrate(next(iter(by_precision.values())))
        precision_section += card_section(by_precision)
    without_gradients = config.handler.precision in archive.GOLDEN_BY_PRECISION
    explainable = [] if without_gradients else exact.explainable
    document = openapi.document(exact.operations, explainable, exact.model, config.handler)
    write_json(stage / archive.OPENAPI, document)
    write_json(stage / archive.PROVENANCE, contents.provenance.to_json())
    card = model_card(model, exact, config, contents.provenance, precision_section, contents.evaluated)
    (stage / archive.CARD).write_text(card, encoding="utf-8")
    archive.write_manifest(stage, name, version, exact.task.name)
    torch.set_num_threads(threads)
    if config.handler.precision in ("auto", "int8", *supported(torch.device("cpu"))):
        load_predictor(stage, config.handler, name=name, version=version)
    else:
        say(f"note: this machine cannot try the archive at {config.handler.precision}; the worker will")


def add_int8(stage: Path, config: ModelConfig, calibration: Calibration) -> list[str]:
    """Add int8 weights and their self-test outputs; fp32 weights stay only where `auto` may choose them.

    Returns:
        A section of the model card.
    """
    from handler.engine import int8_weights
    from handler.loading import load_predictor
    from scripts.archives.calibration import quantize
    from scripts.archives.golden import golden_outputs, rounded

    model = stage / archive.MODEL
    report = quantize(model, config.handler, calibration)
    quantized = load_predictor(model, replace(config.handler, precision="int8"))
    archive.write_golden(stage, rounded(golden_outputs(quantized)), archive.golden_name("int8"))
    if config.handler.precision == "int8":
        for file in [*model.glob("*.safetensors"), *model.glob("*.safetensors.index.json")]:
            if file.name != int8_weights.FILE:
                file.unlink()
    return ["## int8", "", *report.lines(), ""]


def add_score_calibration(stage: Path, config: ModelConfig, scores: ScoreExamples) -> dict[str, ScoreCalibration]:
    """Calibrate the scores of every precision that the archive can be served in, and add answers for the self-test.

    Returns:
        The calibrations by precision, the one that is served by default first.
    """
    import torch

    from handler.engine import int8_weights
    from handler.engine.precision import supported
    from handler.loading import load_predictor
    from scripts.archives import fp8
    from scripts.archives.golden import golden_outputs, rounded
    from scripts.archives.score_calibration import calibrate_scores

    model, requested = stage / archive.MODEL, config.handler.precision
    available = supported(torch.device("cpu"))
    float_precision = requested if requested in available else available[0] if requested == "auto" else "fp32"
    precisions = [requested] if requested in archive.GOLDEN_BY_PRECISION else [float_precision]
    if requested == "auto" and (model / int8_weights.FILE).is_file():
        precisions = ["int8", float_precision]
    by_precision = {}
    for precision in precisions:
        computed: Any = "fp32" if precision == "fp8" else precision
        predictor = load_predictor(model, replace(config.handler, precision=computed))
        if precision == "fp8":
            fp8.quantize(predictor)
        by_precision[archive.calibration_name(precision)] = calibrate_scores(predictor, scores)
        archive.write_golden(stage, rounded(golden_outputs(predictor)), archive.calibrated_golden_name(precision))
    archive.write_calibration(stage, by_precision)
    return by_precision


def add_fp8(stage: Path, config: ModelConfig, calibration: Calibration) -> list[str]:
    """Compare with fp32 and add self-test outputs in fp8; the worker quantizes the weights itself.

    Returns:
        A section of the model card.
    """
    from scripts.archives import fp8
    from scripts.archives.golden import golden_outputs, rounded

    quantized, report = fp8.evaluate(stage / archive.MODEL, config.handler, calibration)
    archive.write_golden(stage, rounded(golden_outputs(quantized)), archive.golden_name("fp8"))
    return ["## fp8", "", *report.lines(), ""]


def run_archiver(stage: Path, name: str, version: str, scratch: Path) -> Path:
    """Call torch-model-archiver on the stage; stored, not deflated: weights do not shrink, and minutes are saved."""
    (scratch / "temporary").mkdir()
    command = [
        sys.executable,
        "-c",
        "from model_archiver.model_packaging import generate_model_archive as main; main()",
        *("--model-name", name, "--version", version, "--archive-format", "zip-store"),
        *("--handler", str(stage / "bert_handler.py"), "--config-file", str(stage / archive.MODEL_CONFIG)),
        *("--extra-files", str(stage), "--export-path", str(scratch)),
    ]
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(scratch / "temporary")}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ScriptError(f"torch-model-archiver failed: {done.stderr.strip().splitlines()[-1:]}")
    return scratch / f"{name}.mar"


def normalise(source: Path, target: Path) -> None:
    """Rewrite a zip with sorted entries, one time stamp and one mode, so that equal content is equal bytes."""
    with zipfile.ZipFile(source) as packed, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for entry in sorted(packed.namelist()):
            info = zipfile.ZipInfo(entry, EPOCH)
            info.external_attr = 0o644 << 16
            if entry == "MAR-INF/MANIFEST.json":
                manifest = json.loads(packed.read(entry))
                manifest["createdOn"] = "01/01/1980 00:00:00"
                out.writestr(info, json.dumps(manifest, indent=2))
                continue
            with packed.open(entry) as reader, out.open(info, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)


def write_json(path: Path, value: JSON) -> None:
    """Write indented JSON for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
