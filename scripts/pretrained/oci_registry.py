"""A registry of OCI artifacts as a place of models: files are pushed to oci://HOST/REPOSITORY:TAG, and fetched from it.

Each file is a layer with its path as title, as ORAS lays files out: `oras pull` and `skopeo copy` read what is pushed
here, and what `oras push` wrote is read here. Every byte that comes back is compared with its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from handler.archive import sha256
from scripts.cli.console import ScriptError, say
from scripts.pretrained.provenance import RegistryVersion
from scripts.pretrained.registry_session import RegistrySession, refusal

if TYPE_CHECKING:
    import requests

SCHEME = "oci://"
ADDRESS = re.compile(  # the grammar of names, tags and digests is that of the distribution specification
    r"oci://(?P<host>[^/@\s]+)/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARCHIVE_TYPE = "application/vnd.bert-on-torchserve.archive.v1"
FOLDER_TYPE = "application/vnd.bert-on-torchserve.model.v1"
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"  # of a folder that ORAS packed
NO_CONFIG = b"{}"  # of application/vnd.oci.empty.v1+json
MEDIA_TYPES = {".mar": "application/zip", ".json": "application/json", ".md": "text/markdown", ".png": "image/png"}
CHUNK = 1 << 20


class Repository:
    """The blobs and manifests of one repository of a registry."""

    def __init__(self, address: re.Match[str], actions: str) -> None:
        self.session = RegistrySession(address["host"], address["repository"], actions)
        self.name = f"{SCHEME}{address['host']}/{address['repository']}"
        self.url = self.session.url

    def ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send one request; raises ScriptError for an answer that is no success."""
        answer = self.session.ask(method, url, **options)
        if answer.status_code < 300:
            return answer
        if answer.is_redirect:
            raise ScriptError(f"{self.name}: the registry sends clients to {answer.headers['Location'][:200]}: name it")
        hint = f": {self.session.login_hint()}" if answer.status_code in (401, 403) else ""
        raise ScriptError(f"{self.name}: {refusal(answer)}{hint}")

    def has(self, digest: str) -> bool:
        """Return whether the registry says that it holds a blob, itself or where a redirect leads.

        Some refuse to say (public.ecr.aws answers 401): then the blob is sent, and the upload says what is wrong.
        """
        answer = self.session.ask("HEAD", f"{self.url}/blobs/{digest}")
        return answer.ok  # as 3xx is

    def upload(self, digest: str, content: Path | bytes) -> None:
        """Send a blob in one piece, read from the disk as it goes."""
        started = self.ask("POST", f"{self.url}/blobs/uploads/")
        if not (location := self.upload_location(started)):
            raise ScriptError(f"{self.name}: the registry does not say where to send a file")
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as reader:
            self.ask("PUT", target, body=reader, headers=headers)

    def upload_location(self, started: requests.Response) -> str:
        """Return the address for a file; one that lost TLS behind a proxy is mended, so that no credentials do."""
        location = started.headers.get("Location", "")
        if not location:
            return ""
        url, root = urlsplit(urljoin(started.url, location)), urlsplit(self.session.root)
        if url.hostname == root.hostname and url.scheme != root.scheme:
            url = url._replace(scheme=root.scheme, netloc=root.netloc)
        return url.geturl()

    def download(self, digest: str, size: int, target: Path) -> None:
        """Write a blob into a file; raises ScriptError if it is not the one of the digest."""
        hashed, left = hashlib.sha256(), size
        with self.ask("GET", f"{self.url}/blobs/{digest}", stream=True) as answer, target.open("wb") as file:
            for piece in answer.iter_content(CHUNK):
                hashed.update(piece)
                left -= len(piece)
                if left < 0:
                    break
                file.write(piece)
        if left != 0 or f"sha256:{hashed.hexdigest()}" != digest:
            raise ScriptError(f"{self.name}: {target.name} is not what was pushed ({digest})")


def fetch(uri: str, target: Path) -> RegistryVersion:
    """Download the files of an artifact into a folder.

    Raises:
        ScriptError: no such artifact, an image, or bytes that are not those of its digests.
    """
    address = _address(uri)
    reference = address["digest"] or address["tag"]
    if reference is None:
        raise ScriptError(f"{uri}: give oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST")
    with _transfer(uri):
        repository = Repository(address, "pull")
        answer = repository.ask("GET", f"{repository.url}/manifests/{reference}", headers={"Accept": MANIFEST})
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if digest != (address["digest"] or answer.headers.get("Docker-Content-Digest", digest)):
            raise ScriptError(f"{uri}: its manifest is not what was pushed: its digest is {digest}")
        resolved = f"{uri.partition('@')[0]}@{digest}"
        say(f"{resolved}: fetching")
        for path, layer in titled_layers(uri, answer.content):
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            repository.download(layer["digest"], layer["size"], file)
    return RegistryVersion(resolved, target, resolved)


def target_of(uri: str) -> re.Match[str]:
    """Return the parts of oci://HOST/REPOSITORY:TAG; raises ScriptError for anything else."""
    address = _address(uri)
    if address["tag"] is None or address["digest"] is not None:
        raise ScriptError(f"--to {uri}: give a tag, oci://HOST/REPOSITORY:TAG")
    return address


def push(files: Mapping[str, Path | bytes], uri: str) -> str:
    """Push files as an artifact and return its address with the digest; the same files have the same digest.

    Args:
        files: path -> the file here, or its content.
        uri: oci://HOST/REPOSITORY:TAG; the tag moves to this artifact if it is there already.

    Raises:
        ScriptError: no tag, no permission, or a registry that refused; the tag then is where it was.
    """
    address = target_of(uri)
    is_archive = any(path.endswith(".mar") for path in files)
    config = _descriptor("application/vnd.oci.empty.v1+json", NO_CONFIG)
    layers = [
        {**_descriptor(media_type(path), content), "annotations": {TITLE: path}}
        for path, content in sorted(files.items())
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARCHIVE_TYPE if is_archive else FOLDER_TYPE,
        "config": config,
        "layers": layers,
    }
    text = json.dumps(manifest).encode()
    with _transfer(uri):
        repository = Repository(address, "pull,push")
        blobs = {layer["digest"]: files[layer["annotations"][TITLE]] for layer in layers}
        for digest, content in {config["digest"]: NO_CONFIG, **blobs}.items():
            if not repository.has(digest):
                repository.upload(digest, content)
        url = f"{repository.url}/manifests/{address['tag']}"
        repository.ask("PUT", url, body=text, headers={"Content-Type": MANIFEST})
    return f"{uri}@sha256:{hashlib.sha256(text).hexdigest()}"


def titled_layers(uri: str, manifest: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and descriptor of each file of a manifest.

    Raises:
        ScriptError: no manifest of an artifact, a packed folder, or a path that leaves the folder.
    """
    try:
        layers = json.loads(manifest)["layers"]
        titles = [(layer.get("annotations") or {}).get(TITLE) for layer in layers]
        described = [(str(layer["digest"]), int(layer["size"])) for layer in layers]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ScriptError(f"{uri}: an index of images, or no manifest at all: give an artifact of files") from None
    if not all(titles) or any((layer.get("annotations") or {}).get(UNPACK) for layer in layers):
        raise ScriptError(f"{uri}: an image or a packed folder, not files by name: push it with scripts/publish.py")
    for title, (digest, size) in zip(titles, described, strict=True):
        path = PurePosixPath(str(title))
        if path.is_absolute() or ".." in path.parts or titles.count(title) > 1:
            raise ScriptError(f"{uri}: the name {title} of a file leaves the folder, or stands there twice")
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
            raise ScriptError(f"{uri}: {title} has the digest {digest[:80]}, which is no SHA-256")
        yield str(path), {"digest": digest, "size": size}


def media_type(path: str) -> str:
    """Return the media type of a file's layer.

    >>> media_type("mine.mar"), media_type("1_Pooling/config.json"), media_type("vocab.txt")
    ('application/zip', 'application/json', 'application/octet-stream')
    """
    return MEDIA_TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")


def _address(uri: str) -> re.Match[str]:
    match = ADDRESS.fullmatch(uri)
    if match is None:
        raise ScriptError(f"{uri}: give oci://HOST/REPOSITORY:TAG, the repository in lower case")
    return match


def _descriptor(media: str, content: Path | bytes) -> dict[str, Any]:
    """Return media type, digest and size of a blob."""
    if isinstance(content, bytes):
        return {"mediaType": media, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
    return {"mediaType": media, "digest": f"sha256:{sha256(content)}", "size": content.stat().st_size}


@contextmanager
def _transfer(uri: str) -> Iterator[None]:
    """Turn errors of the transfer into one line."""
    try:
        yield
    except OSError as error:  # those of requests, too
        raise ScriptError(f"{uri}: the transfer failed: {str(error)[:300]}") from None
