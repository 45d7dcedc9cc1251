"""Fetch a model from the hub with huggingface_hub: its settings first, then its weights, of one commit.

Only config, tokenizer, sentence-transformers modules and one form of the weights are fetched, never code. What lies in
the cache afterwards is compared with the hashes that the hub names. Offline (HF_HUB_OFFLINE) all must be in the cache.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.archive import sha256
from handler.sentence_layers import MODULES_FILE
from scripts.cli.console import ScriptError, say
from scripts.pretrained.files import (
    INDEX,
    PICKLE,
    README,
    ROUTER,
    SETFIT_HEAD,
    WEIGHTS,
    module_folders,
    other_weights_advice,
    other_weights_in,
    pickle_in,
    pickle_refusal,
    require_transformers,
    settings_in,
    shards,
    transformer_folder,
    weights_in,
)
from scripts.pretrained.provenance import Origin

# They say which other files are read.
DECIDING = ("config.json", MODULES_FILE, ROUTER, WEIGHTS + INDEX, PICKLE + INDEX)
PAGE = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)")


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit, in the cache of huggingface_hub."""

    folder: Path
    origin: Origin


def fetch(name: str, revision: str | None, role: str, *, pickles: bool = False) -> Snapshot:
    """Fetch a model by its id.

    Args:
        name: ORG/NAME, or NAME.
        revision: a branch, a tag or a commit; None: the default branch.
        role: of the model in its provenance.
        pickles: whether pickled weights are fetched where there are no others.

    Raises:
        ScriptError: no such model or revision, no access, no weights that are read here, or a transfer that failed.
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    log = huggingface_hub.logging
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        log.set_verbosity_warning()  # type: ignore[no-untyped-call]  # it warns where it falls back on the cache
        resolved = huggingface_hub.HfApi().resolve_revision(name, revision=revision)
        log.set_verbosity_error()  # type: ignore[no-untyped-call]  # what it retries may have signed addresses
        say(f"{name}: commit {resolved.resolved}")
        folder = _download(name, resolved, DECIDING)
        listed = _listing(name, resolved, folder)
        chosen = _chosen(name, listed, folder, pickles=pickles)
        _download(name, resolved, chosen)
    except errors.GatedRepoError:
        raise ScriptError(
            f"{name}: the hub gives this model only to accounts that accepted its terms: accept them on its page, and "
            "set HF_TOKEN (or run `hf auth login`)"
        ) from None
    except errors.RevisionNotFoundError:
        raise ScriptError(f"{name}: the hub has no revision {revision}: name a branch, a tag or a commit") from None
    except errors.RepositoryNotFoundError:
        raise NotOnHub("the hub has no such model, or none that it shows without a token (HF_TOKEN)") from None
    except (errors.RevisionResolutionError, errors.IncompleteSnapshotError):
        raise NotOnHub(_unreachable()) from None
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:  # RuntimeError: of the client of Xet storage
        if isinstance(error, errors.LocalEntryNotFoundError) and huggingface_hub.constants.is_offline_mode():
            raise NotOnHub(_unreachable()) from None
        raise ScriptError(
            f"{name}: the transfer from the hub failed, and nothing of it is used ({_first_line(error)}): "
            "run the same command again, which continues it, or with HF_HUB_DISABLE_XET=1 where Xet storage cannot be "
            "reached"
        ) from None
    finally:
        log.set_verbosity_warning()  # type: ignore[no-untyped-call]
    files = {path: _verified(name, folder / path, listed.get(path)) for path in chosen}
    license_name = _license(folder / README)
    return Snapshot(folder, Origin(role, name, files, revision, resolved.resolved, license_name))


class NotOnHub(ScriptError):
    """The hub did not provide a model of this id; the message says why, in words that follow a colon."""


def id_of_page(word: str) -> str | None:
    """Return the id in the address of a model's page; None for anything else.

    >>> id_of_page("https://huggingface.co/org/name/tree/main")
    'org/name'
    """
    match = PAGE.match(word)
    return match and match.group(1)


def is_id(word: str) -> bool:
    """Return whether a word can be the id of a model."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(word)
    except HFValidationError:
        return False
    return True


def _download(name: str, revision: Any, chosen: Iterable[str]) -> Path:
    """Download files by their exact names, if they exist; return the folder of the commit in the cache."""
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=[_literal(path) for path in chosen], max_workers=4
        )
    )


def _listing(name: str, revision: Any, folder: Path) -> Mapping[str, str | None]:
    """Return the paths of all files of a commit, with the hashes that git has of them; None where they are unknown."""
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.blob_id for file in huggingface_hub.get_cached_repo_tree(name, revision=revision)}
    except CachedRepoTreeNotFoundError:  # a cache that an older version of the library filled, without the network
        return {str(path.relative_to(folder)): None for path in folder.rglob("*") if path.is_file()}


def _chosen(name: str, listed: Iterable[str], folder: Path, *, pickles: bool) -> list[str]:
    """Return the paths to read; raises ScriptError where no weights are among them that are read here."""
    paths = set(listed)
    require_transformers(name, paths)
    weights = weights_in(paths)
    if weights is None:
        weights = pickle_in(paths)
        if weights is not None and not pickles:
            raise ScriptError(pickle_refusal(name, weights))
    inner = transformer_folder(folder)
    if weights is None and inner is not None:
        weights = next((path for path in (f"{inner}/{WEIGHTS}", f"{inner}/{PICKLE}") if path in paths), None)
    if weights is None:
        others = other_weights_in(paths)
        reason = "it has no weights at all"
        if others:
            reason = f"it has {', '.join(others[:3])}: {other_weights_advice(others[0])}"
        raise ScriptError(f"{name}: no weights in safetensors (model.safetensors) and none in {PICKLE}; {reason}")
    chosen = [*settings_in(paths), weights]
    if pickles and SETFIT_HEAD in paths:
        chosen.append(SETFIT_HEAD)
    if weights.endswith(INDEX):
        parts = shards(folder / weights)
        if missing := next((part for part in parts if part not in paths), None):
            raise ScriptError(f"{name}: {weights} names {missing}, which the repository lacks")
        chosen += parts
    for module in module_folders(folder):
        inside = {path.removeprefix(f"{module}/") for path in paths if path.startswith(f"{module}/")}
        module_weights = weights_in(inside) or pickle_in(inside)
        if module_weights == PICKLE and not pickles:
            raise ScriptError(pickle_refusal(f"{name}, {module}", PICKLE))
        chosen += [f"{module}/{path}" for path in (*settings_in(inside), module_weights) if path in inside]
    return sorted(dict.fromkeys(chosen))


def _verified(name: str, file: Path, blob_id: str | None) -> str:
    """Return the SHA-256 of a file of the cache; raises ScriptError if it is not the file that the hub has.

    The cache names a file by the hash that the hub gives it: SHA-256, or for small files that of a git blob.
    """
    digest, blob = sha256(file), file.resolve()
    expected, actual = blob.name, digest
    if expected == blob_id:
        content = blob.read_bytes()
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if (len(expected) == 64 or expected == blob_id) and expected != actual:
        raise ScriptError(f"{name}: {file.name} in the cache is not the file that the hub has: delete {blob} and rerun")
    return digest


def _license(readme: Path) -> str | None:
    """Return the license that a model's card names."""
    from huggingface_hub import ModelCard

    if not readme.is_file():
        return None
    try:
        value = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict().get("license")  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - any card of any age: it decides nothing
        return None
    return value if isinstance(value, str) else None


def _literal(path: str) -> str:
    """Return the pattern that matches a path alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


def _unreachable() -> str:
    from huggingface_hub import constants

    state = "the hub is switched off (HF_HUB_OFFLINE)" if constants.is_offline_mode() else "the hub cannot be reached"
    return f"{state}, and the cache holds no whole copy of it"


def _first_line(error: Exception) -> str:
    message = str(error).strip().splitlines()
    return message[0][:200] if message else type(error).__name__
