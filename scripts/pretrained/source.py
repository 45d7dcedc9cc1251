"""Open a model by a local folder or an id of the hub, as one folder of safetensors that is read like any other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from handler.archive import sha256
from handler.engine import int8_weights
from handler.errors import ServingError
from handler.protocol import JSON
from handler.sentence_layers import MODULES_FILE
from handler.sentence_modules import module_files
from scripts.cli.console import ScriptError
from scripts.pretrained import registries
from scripts.pretrained.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_FILES,
    MODULE_FILES,
    PICKLE,
    README,
    ROUTER,
    SETFIT_HEAD,
    WEIGHTS,
    module_folders,
    pickle_in,
    pickle_refusal,
    require_transformers,
    transformer_folder,
    weights_in,
)
from scripts.pretrained.label_names import read_names, with_names
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.provenance import Origin, Provenance
from scripts.pretrained.stanford import is_stanford

if TYPE_CHECKING:
    from scripts.pretrained.adapters import Adapter

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class ModelSource:
    """A folder that holds a model in safetensors, and where it comes from."""

    folder: Path
    provenance: Provenance = field(default_factory=Provenance)
    commit: str | None = None  # where it was named by an id of the hub


@contextmanager
def open_model(request: ModelRequest) -> Iterator[ModelSource]:
    """Yield a folder of safetensors for a model; temporary files are removed afterwards.

    A local folder wins over an id of the hub. Weights that are pickled are converted where the request says so, and an
    adapter is merged into its base model.

    Raises:
        ScriptError: no such model, or none that can be read; the message says what to do.
    """
    with ExitStack() as stack:
        names = read_names(request.labels) if request.labels is not None else None
        source = _open(request, "model", stack)
        if names is not None:
            source = _name_labels(source, names, stack)
        try:
            yield source
        except (ScriptError, ServingError) as error:
            if source.folder != Path(request.model) and str(source.folder) in str(error):
                raise type(error)(str(error).replace(str(source.folder), request.model)) from error
            raise


def _open(request: ModelRequest, role: str, stack: ExitStack) -> ModelSource:
    original = _find(request, role, stack)
    if inner := transformer_folder(original.folder):
        original = _move_transformer(original, inner, role, stack)
    readable = _convert_pickles(request, original, role, stack) if _is_pickled(original.folder) else original
    if request.convert_pickle and (readable.folder / SETFIT_HEAD).is_file():
        readable = _convert_setfit(readable, role, stack)
    if is_stanford(readable.folder):
        readable = _convert_stanford(readable, role, stack)
    if (readable.folder / ADAPTER_CONFIG).is_file():
        if role != "model":
            raise ScriptError(f"base model {request.model}: it is an adapter itself: merge it first")
        return _merge_adapter(request, readable, stack)
    return readable


def _find(request: ModelRequest, role: str, stack: ExitStack) -> ModelSource:
    """Return the folder of a model as it was named, or the files that are read of its repository on the hub."""
    word, folder = request.model, Path(request.model).expanduser()
    if registries.is_registered(word):
        return _fetch_version(request, role, stack)
    if folder.is_dir():
        if request.revision is not None:
            raise ScriptError(f"{role} {word} is a local folder, and --revision is for an id of the hub: leave it out")
        if not (folder / "config.json").is_file():
            require_transformers(f"{role} {word}", (file.name for file in folder.iterdir()))
            _require_no_folder_of_models(f"{role} {word}", folder)
        return ModelSource(folder)
    if folder.exists():
        raise ScriptError(f"{role} {word} is a file: give the folder that save_pretrained wrote, unpacked")
    from scripts.pretrained import hub

    if page := hub.id_of_page(word):
        raise ScriptError(f"{role} {word}: give the id alone, {page}")
    if not hub.is_id(word):
        raise ScriptError(f"{role} {word}: no such folder, and no id of the hub either (ORG/NAME)")
    if request.revision is None and folder.parent != Path() and folder.parent.is_dir():
        raise ScriptError(
            f"{role} {word}: no such folder in {folder.parent}{_setup_hint(word)}; if the hub's model of this id is "
            "meant, add --revision main"
        )
    try:
        snapshot = hub.fetch(word, request.revision, role, pickles=request.convert_pickle)
    except hub.NotOnHub as error:
        raise ScriptError(f"{role} {word}: no such folder here, and as an id of the hub: {error}") from None
    linked = _temporary(stack, word)
    _link(snapshot.folder, list(map(Path, snapshot.origin.files)), linked)
    return ModelSource(linked, Provenance((snapshot.origin,)), snapshot.origin.commit)


def _require_no_folder_of_models(name: str, folder: Path) -> None:
    """Raise ScriptError for a folder whose subfolders are models: checkpoints of a Trainer, adapters by their names."""
    if any((folder / file).is_file() for file in (ADAPTER_CONFIG, MODULES_FILE)):
        return
    models = sorted({path.parent.name for file in ("config.json", ADAPTER_CONFIG) for path in folder.glob(f"*/{file}")})
    if models:
        more = f" and {len(models) - 6} more" if len(models) > 6 else ""
        raise ScriptError(
            f"{name}: no config.json, but folders that have one: give one of {', '.join(models[:6])}{more}"
        )


def _fetch_version(request: ModelRequest, role: str, stack: ExitStack) -> ModelSource:
    """Return the files of a version in a registry."""
    word = request.model
    if request.revision is not None:
        raise ScriptError(f"{role} {word}: --revision is for an id of the hub: the address says the version")
    fetched = registries.fetch(word, _temporary(stack, "version"))
    names = {file.name for file in fetched.folder.iterdir()}
    if archive := next((name for name in sorted(names) if name.endswith(".mar")), None):
        raise ScriptError(f"{role} {word}: it is an archive, {archive}: scripts/models.py register {word} serves it")
    if "MLmodel" in names:
        raise ScriptError(
            f"{role} {word}: a model in a form of MLflow's own (MLmodel): push its folder, as save_pretrained "
            "wrote it, with scripts/publish.py"
        )
    files = {str(path.relative_to(fetched.folder)): path for path in fetched.folder.rglob("*") if path.is_file()}
    origin = Origin(role, None, {name: sha256(path) for name, path in sorted(files.items())})
    return ModelSource(fetched.folder, Provenance((origin,), (f"fetched from {fetched.provenance}",)))


def _setup_hint(word: str) -> str:
    return " (scripts/setup.sh fetches it)" if word == "models/base" else ""


def _move_transformer(original: ModelSource, inner: str, role: str, stack: ExitStack) -> ModelSource:
    """Return a copy of a folder, made of links, whose transformer is in the folder itself; the library reads both."""
    folder, target = original.folder, _temporary(stack, original.folder.name)
    source = folder / inner
    _link(source, [file.relative_to(source) for file in source.iterdir() if file.is_file()], target)
    for name in (MODULES_FILE, ROUTER):
        if (folder / name).is_file():
            (target / name).write_text(json.dumps(_renamed(json.loads((folder / name).read_text()), inner), indent=2))
    kept = [file.relative_to(folder) for file in folder.iterdir() if any(map(file.match, (*MODULE_FILES, README)))]
    _link(folder, [path for path in kept if not path.match("sentence_*")], target)
    for path in module_folders(folder):
        if path != inner:
            _link(folder, [file.relative_to(folder) for file in (folder / path).iterdir() if file.is_file()], target)
    provenance = original.provenance
    digests = {str(file.relative_to(folder)): sha256(file) for file in sorted(source.glob("*.safetensors"))}
    origins = provenance.origins or (Origin(role, None, digests),)
    steps = (*provenance.steps, f"the transformer of {inner} in the folder itself")
    return replace(original, folder=target, provenance=Provenance(origins, steps))


def _renamed(value: JSON, path: str) -> JSON:
    """Return the content of modules.json or router_config.json with the folder itself in the place of one in it."""
    if isinstance(value, dict):
        return {"" if key == path else key: _renamed(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, path) for inner in value]
    return "" if value == path else value


def _is_pickled(folder: Path) -> bool:
    """Return whether a folder, or one of its modules, has weights in a pickle alone."""
    return any(_pickle_alone(path) for path in (folder, *_module_folders(folder)))


def _pickle_alone(folder: Path) -> str | None:
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    has_float_weights = any(name.endswith(".safetensors") and name != int8_weights.FILE for name in names)
    return None if weights_in(names) or has_float_weights else pickle_in(names)


def _module_folders(folder: Path) -> list[Path]:
    return [folder / path for path in module_folders(folder)]


def _convert_pickles(request: ModelRequest, original: ModelSource, role: str, stack: ExitStack) -> ModelSource:
    """Return a copy of a folder, made of links, with its pickled weights as safetensors."""
    folder, target = original.folder, _temporary(stack, original.folder.name)
    pickled = {path: name for path in (folder, *_module_folders(folder)) if (name := _pickle_alone(path))}
    first = next(iter(pickled))
    where = request.model if first == folder else f"{request.model}, {first.relative_to(folder)}"
    if not request.convert_pickle:
        raise ScriptError(pickle_refusal(f"{role} {where}", pickled[first]))
    from scripts.pretrained import pickles  # imports torch

    _link(folder, [file.relative_to(folder) for file in folder.iterdir() if file.is_file()], target)
    _link(folder, [path for path in module_files(folder) if not (target / path).exists()], target)
    digests = {}
    for source, name in pickled.items():
        inner = source.relative_to(folder)
        (target / inner).mkdir(exist_ok=True)
        read = pickles.convert(source, name, target / inner)
        digests.update({str(inner / file): sha256(source / file) for file in read})
        for file in read:  # a link to what nothing reads any more
            (target / inner / file).unlink(missing_ok=True)
    import torch

    provenance = original.provenance
    origins = provenance.origins or (Origin(role, None, digests),)
    step = f"{', '.join(digests)} converted to safetensors with torch {torch.__version__}"
    return ModelSource(target, Provenance(origins, (*provenance.steps, step)), original.commit)


def _convert_setfit(original: ModelSource, role: str, stack: ExitStack) -> ModelSource:
    """Return a copy of a folder that SetFit saved, made of links, with its classifier as safetensors."""
    from scripts.pretrained.setfit_head import convert_head

    folder, target = original.folder, _temporary(stack, original.folder.name)
    step = convert_head(folder, target)
    files = [file.relative_to(folder) for file in folder.iterdir() if file.is_file() and file.name != SETFIT_HEAD]
    _link(folder, files, target)
    _link(folder, module_files(folder), target)
    provenance = original.provenance
    origins = provenance.origins or (Origin(role, None, {SETFIT_HEAD: sha256(folder / SETFIT_HEAD)}),)
    return ModelSource(target, Provenance(origins, (*provenance.steps, step)), original.commit)


def _convert_stanford(original: ModelSource, role: str, stack: ExitStack) -> ModelSource:
    """Return a copy of a checkpoint of colbert-ai, made of links, in the layout of PyLate."""
    from scripts.pretrained.stanford import convert

    folder, target = original.folder, _temporary(stack, original.folder.name)
    step = convert(folder, target)
    files = [path.relative_to(folder) for path in folder.iterdir() if path.is_file() and _is_kept(path.name)]
    _link(folder, files, target)
    provenance = original.provenance
    weights = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
    origins = provenance.origins or (Origin(role, None, weights),)
    return ModelSource(target, Provenance(origins, (*provenance.steps, step)), original.commit)


def _name_labels(source: ModelSource, names: list[str], stack: ExitStack) -> ModelSource:
    """Return a copy of a folder, made of links, whose config.json has these names of labels."""
    folder, target = source.folder, _temporary(stack, source.folder.name)
    (target / "config.json").write_text(json.dumps(with_names(folder / "config.json", names), indent=2) + "\n")
    _link(folder, [file.relative_to(folder) for file in folder.iterdir() if file.is_file()], target)
    _link(folder, module_files(folder), target)
    provenance = source.provenance
    return replace(source, folder=target, provenance=replace(provenance, steps=(*provenance.steps, "labels named")))


def _merge_adapter(request: ModelRequest, adapter_source: ModelSource, stack: ExitStack) -> ModelSource:
    """Return a folder of the merged model, with the tokenizer of the adapter's folder or else of the base model."""
    from scripts.pretrained import adapters

    folder = adapter_source.folder
    if (folder / WEIGHTS).is_file():
        raise ScriptError(
            f"model {request.model}: it has an adapter ({ADAPTER_WEIGHTS}) beside whole weights ({WEIGHTS}): remove "
            "the one that is not meant"
        )
    adapter = adapters.Adapter.read(folder)
    base = _open(_base_request(request, adapter), "base model", stack)
    _require_same_base(request, folder, base.folder)
    target = _temporary(stack, folder.name)
    step = adapters.merge(adapter, base.folder, target)
    own = [file.relative_to(folder) for file in folder.iterdir() if _is_kept(file.name)]
    _link(folder, own + module_files(folder), target)
    if not any(fnmatchcase(path.name, pattern) for path in own for pattern in TOKENIZERS):
        _link(base.folder, [Path(file.name) for file in base.folder.iterdir() if _is_kept(file.name)], target)
    if adapter.task_type == "FEATURE_EXTRACTION" and not (folder / MODULES_FILE).is_file():
        _link(base.folder, module_files(base.folder), target)
    hashes = {ADAPTER_WEIGHTS: sha256(folder / ADAPTER_WEIGHTS), ADAPTER_CONFIG: sha256(folder / ADAPTER_CONFIG)}
    origins = [
        Origin("adapter", o.name, o.files, o.revision, o.commit, o.license) for o in adapter_source.provenance.origins
    ]
    origins = origins or [Origin("adapter", None, hashes)]
    base_origins = base.provenance.origins or (
        Origin("base model", None, {file.name: sha256(file) for file in sorted(base.folder.glob("*.safetensors"))}),
    )
    steps = (*adapter_source.provenance.steps, *base.provenance.steps, step)
    return ModelSource(target, Provenance((*origins, *base_origins), steps), adapter_source.commit)


def _require_same_base(request: ModelRequest, folder: Path, base: Path) -> None:
    """Raise ScriptError where scripts/train.py trained the adapter on other weights than those of the base model."""
    record = folder / "training.json"
    if not record.is_file():
        return
    expected = json.loads(record.read_text(encoding="utf-8")).get("base_model", {}).get("sha256", {})
    if expected and not set(expected.values()) <= {sha256(file) for file in base.glob("*.safetensors")}:
        raise ScriptError(
            f"model {request.model}: the adapter was trained on other weights than those of its base model (by the "
            "SHA-256 in training.json): give the folder of the right ones with --base-model"
        )


def _base_request(request: ModelRequest, adapter: Adapter) -> ModelRequest:
    """Return the request for an adapter's base model; a path in adapter_config.json may be relative to the adapter."""
    name = request.base_model or adapter.base_model
    if not name:
        raise ScriptError(f"model {request.model}: the adapter names no base model: give it with --base-model")
    revision = None if request.base_model else adapter.revision
    beside = adapter.folder / name
    if not request.base_model and not Path(name).is_dir() and beside.is_dir():
        name, revision = str(beside), None
    if Path(name).is_dir():
        revision = None
    elif not request.base_model and (Path(name).is_absolute() or name.startswith(".")):
        raise ScriptError(
            f"model {request.model}: the adapter's base model is {name}, a folder that is not here: give it with "
            "--base-model"
        )
    return ModelRequest(name, revision, None, request.convert_pickle)


def _is_kept(name: str) -> bool:
    """Return whether a file beside an adapter, or of a base model, goes to the merged model: no config, no weights."""
    patterns = [*MODEL_FILES, *MODULE_FILES]
    is_model = name in ("config.json", MODULES_FILE) or ".safetensors" in name or name.startswith(PICKLE)
    return not is_model and any(fnmatchcase(name, pattern) for pattern in patterns)


def _link(source: Path, paths: list[Path], target: Path) -> None:
    """Link files into another folder by the same paths; those that are there already stay."""
    for path in paths:
        link = target / path
        if not link.is_symlink() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((source / path).resolve())


def _temporary(stack: ExitStack, name: str) -> Path:
    """Return a new folder that ends in a model's name, which messages about its files then hold."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-"))) / name.replace("/", "--")
    folder.mkdir()
    return folder
