# mypy: disable-error-code="import-untyped,import-not-found"
"""A registry of OCI artifacts as a place of models: files are pushed to oci://HOST/REPOSITORY:TAG, and fetched from it.

Each file is a layer with its path as title, as ORAS lays files out: `oras pull` and `skopeo copy` read what is pushed
here, and what `oras push` wrote is read here. oras signs in, with the credentials of ~/.docker/config.json (or of the
folder DOCKER_CONFIG). Every byte that comes back is compared with its digest, which oras leaves out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from handler.archive import sha256
from scripts.cli.console import ScriptError, say
from scripts.pretrained.provenance import RegistryVersion

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
    """One repository of a registry, with the client that signs in to it."""

    def __init__(self, address: re.Match[str]) -> None:
        from oras.container import Container
        from oras.provider import Registry

        self.host, self.name = address["host"], address["repository"]
        scheme = "http" if is_loopback(self.host) else "https"
        self.url = f"{scheme}://{self.host}/v2/{self.name}"
        import requests

        challenge = requests.get(f"{scheme}://{self.host}/v2/", timeout=30).headers.get("WWW-Authenticate", "")
        self.is_basic = challenge.lower().startswith("basic")
        self.registry = Registry(
            self.host, insecure=scheme == "http", auth_backend="basic" if self.is_basic else "token"
        )
        self.auth: Any = self.registry.auth
        self.auth.load_configs(Container(self.name, registry=self.host))
        if (own := credentials(self.host)) is not None:
            self.auth.set_basic_auth(*own)
        if self.is_basic and not getattr(self.auth, "_basic_auth", None):
            raise ScriptError(f"{SCHEME}{self.host} asks who you are: {self.sign_in()}")

    def sign_in(self) -> str:
        """Return how to write the credentials that are read."""
        return f"docker login {self.host} (or oras login, skopeo login --authfile ~/.docker/config.json)"

    def ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send one request, signed in; raises ScriptError for an answer that is no success, but 404 of HEAD."""
        from oras.provider import Registry

        # A token is for what was asked with it and ends after minutes; oras would send the first one for ever. A body
        # that is read as it goes cannot be sent twice, so it takes the token of the request before, or the password.
        is_streamed, is_own = not isinstance(options.get("data", b""), bytes), urlsplit(url).netloc == self.host
        if not (is_streamed and is_own):
            self.auth.token = None
        headers = {**options.pop("headers", {}), **(self.auth.get_auth_header() if self.is_basic and is_own else {})}
        # Below its retries, which wait two minutes where nothing answers.
        send = Registry.do_request.__wrapped__
        try:
            answer: requests.Response = send(self.registry, url, method, headers=headers, **options)
        except ValueError:
            raise ScriptError(f"{SCHEME}{self.host} refused: {self.sign_in()}") from None
        if answer.ok or (method == "HEAD" and answer.status_code == 404):
            return answer
        hint = f": {self.sign_in()}" if answer.status_code in (401, 403) else ""
        raise ScriptError(f"{SCHEME}{self.host}/{self.name}: {refusal(answer)}{hint}")

    def has(self, digest: str) -> bool:
        """Return whether the registry holds a blob already."""
        return self.ask("HEAD", f"{self.url}/blobs/{digest}").ok

    def upload(self, digest: str, content: Path | bytes) -> None:
        """Send a blob in one piece, read from the disk as it goes."""
        started = self.ask("POST", f"{self.url}/blobs/uploads/")
        location = urljoin(started.url, started.headers["Location"])
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as reader:
            self.ask("PUT", target, data=reader, headers=headers)

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
            raise ScriptError(f"{SCHEME}{self.host}/{self.name}: {target.name} is not what was pushed ({digest})")


def fetch(uri: str, target: Path) -> RegistryVersion:
    """Download the files of an artifact into a folder.

    Raises:
        ScriptError: no such artifact, an image, or bytes that are not those of its digests.
    """
    address = _address(uri)
    reference = address["digest"] or address["tag"]
    if reference is None:
        raise ScriptError(f"{uri}: give oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST")
    with _client(uri):
        repository = Repository(address)
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


def push(files: Mapping[str, Path | bytes], uri: str) -> str:
    """Push files as an artifact and return its address with the digest; the same files have the same digest.

    Args:
        files: path -> the file here, or its content.
        uri: oci://HOST/REPOSITORY:TAG; the tag moves to this artifact if it is there already.

    Raises:
        ScriptError: no tag, no permission, or a registry that refused; the tag then is where it was.
    """
    address = _address(uri)
    if address["tag"] is None or address["digest"] is not None:
        raise ScriptError(f"--to {uri}: give a tag, oci://HOST/REPOSITORY:TAG")
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
    with _client(uri):
        repository = Repository(address)
        blobs = {layer["digest"]: files[layer["annotations"][TITLE]] for layer in layers}
        for digest, content in {config["digest"]: NO_CONFIG, **blobs}.items():
            if not repository.has(digest):
                repository.upload(digest, content)
        url = f"{repository.url}/manifests/{address['tag']}"
        repository.ask("PUT", url, data=text, headers={"Content-Type": MANIFEST})
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


def is_loopback(host: str) -> bool:
    """Return whether a registry is on this machine, where no TLS is expected, as by docker and oras.

    >>> is_loopback("localhost:5000"), is_loopback("127.0.0.1:5000"), is_loopback("registry:5000")
    (True, True, False)
    """
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")


def credentials(host: str) -> tuple[str, str] | None:
    """Return user and password of a registry by config.json in the folder DOCKER_CONFIG, which oras does not read."""
    folder = os.environ.get("DOCKER_CONFIG")
    if not folder:
        return None
    try:
        entry = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["auths"][host]["auth"]
        user, _, password = base64.b64decode(entry).decode().partition(":")
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return user, password


def refusal(answer: requests.Response) -> str:
    """Return status and reason of a registry's answer, in its own words where it has some."""
    try:
        errors: Iterable[Mapping[str, Any]] = answer.json()["errors"]
        words = "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (KeyError, TypeError, ValueError, AttributeError):
        words = answer.reason
    return f"the registry refused ({answer.status_code}): {words[:300]}"


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
def _client(uri: str) -> Iterator[None]:
    """Turn errors of the transfer, and a missing client, into one line."""
    try:
        import oras.provider  # noqa: F401
    except ImportError:
        raise ScriptError(f"{uri} needs the client of registries: pip install -r requirements/oci.txt") from None
    try:
        yield
    except OSError as error:  # those of requests, too
        raise ScriptError(f"{uri}: the transfer failed: {str(error)[:300]}") from None
