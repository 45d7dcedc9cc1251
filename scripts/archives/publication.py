"""Push a model's folder, or an archive, to the hub of Hugging Face: only files that are read, with a card.

What leaves the machine is chosen by name: config, tokenizer, weights in safetensors, the record and the curves of the
training, the card. Checkpoints, optimizer states, data, logs and everything else stay, and are listed. A text file that
holds what looks like a key is refused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler import archive
from handler.config import ServingConfig
from handler.engine.config_problems import load_config
from handler.model_folder import ModelFolder
from handler.sentence_layers import MODULES_FILE
from handler.sentence_modules import module_files
from handler.tasks import task_class_for
from scripts.archives.model_card import eval_results, training_sections
from scripts.archives.store import Archive
from scripts.cli.console import ScriptError
from scripts.pretrained.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_FILES,
    MODULE_FILES,
    README,
    pickle_in,
    transformer_folder,
    weights_in,
)
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CURVES = "training.png"
KEYS = re.compile(  # of the hub, clouds and code hosts, and private keys
    rb"hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9_-]{40,}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
FRONT_MATTER = re.compile(r"\A---\n.*?^---$", re.DOTALL | re.MULTILINE)
TEXTS = (".json", ".txt", ".md", ".yaml")


@dataclass
class Publication:
    """What is pushed: path in the repository -> the file here, or its content; and what stays here."""

    files: dict[str, Path | bytes] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def card(self) -> str:
        """The text of README.md."""
        content = self.files[README]
        return content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")

    @property
    def description(self) -> str:
        """The text of README.md without its metadata, for pages that show Markdown alone."""
        return FRONT_MATTER.sub("", self.card).lstrip()

    def size(self, path: str) -> int:
        """Return the bytes of one file."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def of_archive(file: Path, evaluated: Sequence[EvalResult]) -> Publication:
    """Return an archive, its OpenAPI document and its card; raises ScriptError for a damaged one."""
    opened = Archive.read(file)
    if damage := opened.damage():
        raise ScriptError(f"{file}: {damage}: pack it again")
    card, document = (opened.text(path).encode() for path in (archive.CARD, archive.OPENAPI))
    if evaluated:
        raise ScriptError("--evaluated is for a folder: an archive gets metrics when scripts/package.py packs it")
    name = f"{opened.name}.mar"
    return checked(Publication({name: file, f"{opened.name}.openapi.json": document, README: card}))


def of_folder(folder: Path, name: str, base_model: str | None, evaluated: Sequence[EvalResult]) -> Publication:
    """Return the files of a model's folder and its card.

    Args:
        name: of the model, in the card.
        base_model: of an adapter, by its id on the hub, instead of the folder that it names.

    Raises:
        ScriptError: no weights in safetensors, an unfinished training, or an adapter of a model that nobody else has.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    inner = Path(transformer_folder(folder) or "")  # of a Router, as sentence-transformers saves it
    beside_weights = [path.name for path in map(Path, names) if path.parent == inner]
    if weights_in(beside_weights) is None:
        pickled = pickle_in(beside_weights)
        hint = f"{pickled} is a pickle, which could run code: save it as safetensors" if pickled else "no weights in it"
        raise ScriptError(f"{folder}: {hint}")
    if (folder / "checkpoints" / "run.json").is_file() and not (folder / "training.json").is_file():
        raise ScriptError(f"{folder}: its training is not finished: wait for it, or go on with train.py --resume")
    patterns = (*MODEL_FILES, *MODULE_FILES, ADAPTER_CONFIG, CURVES)
    candidates = [path for path in map(Path, names) if path.parent in (Path(), inner)]
    chosen = [str(path) for path in candidates if any(fnmatchcase(path.name, pattern) for pattern in patterns)]
    chosen += [str(path) for path in module_files(folder) if str(path) not in chosen]
    publication = Publication({path: folder / path for path in chosen})
    if ADAPTER_WEIGHTS in publication.files:
        publication.files[ADAPTER_CONFIG] = adapter_config(folder, base_model)
    publication.files[README] = folder_card(folder, name, base_model, evaluated).encode()
    publication.left = [path for path in names if path not in publication.files]
    return checked(publication)


def adapter_config(folder: Path, base_model: str | None) -> bytes:
    """Return the adapter_config.json with a base model of the hub; raises ScriptError where it names a folder."""
    from scripts.pretrained import hub

    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    named = base_model or config.get("base_model_name_or_path") or ""
    if not hub.is_id(named) or (base_model is None and Path(named).exists()):
        raise ScriptError(
            f"{folder}: the adapter's base model is the folder {named}, which nobody else has: give its id on the hub "
            "with --base-model ORG/NAME"
        )
    if base_model is not None:
        config |= {"base_model_name_or_path": base_model, "revision": None}
    return (json.dumps(config, indent=2) + "\n").encode()


def folder_card(folder: Path, name: str, base_model: str | None, evaluated: Sequence[EvalResult]) -> str:
    """Return the card of a folder: its own README.md, or one of the record of training; metadata are added to both."""
    from huggingface_hub import ModelCard, ModelCardData

    task = hub_task(folder)
    record = folder / "training.json"
    training: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    results = [*eval_results(task, training), *evaluated]
    own = folder / README
    text = own.read_text(encoding="utf-8") if own.is_file() else f"# {name}\n\n{body(folder, training)}"
    card = ModelCard(text if text.startswith("---") else f"---\n{{}}\n---\n\n{text}", ignore_metadata_errors=True)
    base = base_model or (training.get("base_model") or {}).get("name")
    library = "sentence-transformers" if (folder / MODULES_FILE).is_file() else "transformers"
    metadata: dict[str, Any] = {
        "library_name": "peft" if (folder / ADAPTER_WEIGHTS).is_file() else library,
        "pipeline_tag": task,
        "base_model": base if base and "/" in base and not Path(base).exists() else None,
        "model_name": name if results else None,
        "eval_results": results or None,
    }
    known: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    known.pop("model-index", None)
    merged = ModelCardData(**({key: value for key, value in metadata.items() if value is not None} | known))
    return f"---\n{merged.to_yaml()}\n---\n\n{card.text.lstrip()}"


def hub_task(folder: Path) -> str:
    """Return the hub's word for what a folder's model is for, its transformer being in the folder itself or below."""
    with ExitStack() as stack:
        if transformer_folder(folder) is not None:
            folder = stack.enter_context(open_model(ModelRequest(str(folder)))).folder
        config = load_config(folder)
        task_class = task_class_for(ModelFolder.read(folder, config), ServingConfig())
    return task_class.hub_task or task_class.name


def body(folder: Path, training: dict[str, Any]) -> str:
    """Return the text of a card: labels, the record of training and its curves."""
    labels = training.get("labels") or []
    lines = ["## Labels", "", *(f"{number}. {label}" for number, label in enumerate(labels)), ""] if labels else []
    lines += training_sections(training) if training else ["Training is not recorded."]
    if (folder / CURVES).is_file():
        lines += ["## Curves", "", f"![Losses and validation metrics by epoch]({CURVES})", ""]
    return "\n".join(lines)


def checked(publication: Publication) -> Publication:
    """Refuse a text file that holds what looks like a key; the key itself is not printed."""
    for path, content in publication.files.items():
        if path.endswith(TEXTS):
            text = content if isinstance(content, bytes) else content.read_bytes()
            if KEYS.search(text):
                raise ScriptError(f"{path} holds what looks like a secret key: remove it, and revoke the key")
    return publication


def push(
    publication: Publication, repository: str, *, public: bool, revision: str | None, create_pr: bool, message: str
) -> str:
    """Create the repository where it is missing, push all files in one commit, and return the commit's address.

    Raises:
        ScriptError: no permission, no such repository, or a transfer that failed.
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repository, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in sorted(publication.files.items())]
        commit = api.create_commit(
            repository, operations, commit_message=message, revision=revision, create_pr=create_pr or None
        )
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = (
            "set HF_TOKEN to a key that may write there (or run `hf auth login`)" if status in (401, 403) else "again"
        )
        raise ScriptError(f"{repository}: the hub refused ({status}): {hint}: {first_line(error)}") from None
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
        raise ScriptError(
            f"{repository}: the push failed, and the repository is as it was ({first_line(error)}): run it again"
        ) from None
    return str(commit.pr_url or commit.commit_url)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
