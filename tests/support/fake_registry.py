"""A server that speaks the OCI distribution protocol, with the ways in which registries differ.

They sign clients in by passwords, tokens or both; tokens are as strict as those of the registry `distribution`, each
for the actions that were asked with it. Blobs lie elsewhere, uploads have addresses of several forms, and a registry
may be busy. Faults are injected by digest. Tried beside it by hand: the registry of Debian (docs/models.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "mia", "a:b"
BASIC = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
IDENTITY = "an-identity-token"


@dataclass
class FakeRegistry:
    """Blobs and manifests by name, and what the server does differently or wrong."""

    sign_in: str = ""  # "basic", "token", "both" (the client chooses), or nothing
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)  # by REPOSITORY:TAG and REPOSITORY:DIGEST
    wrong: set[str] = field(default_factory=set)  # digests of which another byte arrives
    status: int = 0  # with which every upload is answered, if not 0
    head_status: int = 0  # with which every HEAD of a blob is answered, if not 0
    busy: list[tuple[int, str]] = field(default_factory=list)  # status and Retry-After of the next answers
    challenged_actions: str = ""  # what a challenge names, if not what the request needs
    token_uses: int = 0  # how many requests a token is good for, if not 0
    realm: str = ""  # where tokens are, if not here
    upload_root: str = ""  # before the path of an upload: nothing, or an address
    storage: str = ""  # to which GET and HEAD of blobs are redirected, if anything
    moved_to: str = ""  # where the whole registry is now, if not here
    has_digest_header: bool = True
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    scopes: list[list[str]] = field(default_factory=list)  # of each token
    tokens: dict[str, int] = field(default_factory=dict)  # token -> uses
    host: str = ""


@dataclass
class FakeStorage:
    """Where blobs lie that a registry does not send itself: as S3, it refuses what has two ways to sign in."""

    blobs: dict[str, bytes]
    status: int = 0  # with which every request is answered, if not 0
    authorizations: list[str | None] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    root: str = ""


class Handler(BaseHTTPRequestHandler):
    """What both servers have in common."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        """Read the body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, *words: object) -> None:
        """Be quiet."""


@contextmanager
def serving(handler: type[Handler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server on a free port and yield its host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def fake_registry(sign_in: str = "", tls: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """Run a registry; with TLS under an address that is not taken for the loopback."""
    registry = FakeRegistry(sign_in)
    with serving(handler_of(registry), tls) as host:
        registry.host = host.replace("127.0.0.1", "0.0.0.0") if tls else host  # noqa: S104 - an address to connect to
        yield registry


@contextmanager
def fake_storage(blobs: dict[str, bytes]) -> Iterator[FakeStorage]:
    """Run a storage."""
    storage = FakeStorage(blobs)

    class Storage(Handler):
        def serve(self) -> None:
            storage.methods.append(self.command)
            storage.authorizations.append(self.headers.get("Authorization"))
            content = self.body()
            digest = urlsplit(self.path).path.removeprefix("/")
            if storage.status:
                self.answer(storage.status, WWW_Authenticate=f'Bearer realm="{storage.root}/token"')
            elif self.headers.get("Authorization"):
                self.answer(400, b"Only one auth mechanism allowed")
            elif self.command == "PUT":
                storage.blobs[digest_of(content)] = content
                self.answer(201)
            elif self.command == "GET":
                self.answer(200, storage.blobs[digest])
            else:
                self.answer(403)  # an address that is signed for GET

        do_GET = do_HEAD = do_PUT = do_POST = serve  # noqa: N815 - the names that http.server calls

    with serving(Storage) as host:
        storage.root = f"http://{host}"
        yield storage


def digest_of(content: bytes) -> str:
    """Return the digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def handler_of(registry: FakeRegistry) -> type[Handler]:
    """Return the handler of a registry."""

    class Registry(Handler):
        def refuse(self, status: int, message: str, **headers: str) -> None:
            self.answer(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), **headers)

        def may(self, repository: str) -> bool:
            """Answer a request that is not signed in, or not for this action, with the challenge."""
            needed = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            given = self.headers.get("Authorization", "")
            by_password, by_token = given == BASIC, self.has_token(given, repository, needed)
            if {"": True, "basic": by_password, "token": by_token, "both": by_password or by_token}[registry.sign_in]:
                return True
            scope = f"repository:{repository}:{registry.challenged_actions or needed}" if repository else ""
            realm = registry.realm or f"http://{registry.host}/token"
            bearer = f'Bearer realm="{realm}",service="test",scope="{scope}"'
            basic = 'Basic realm="Registry, of tests"'
            challenge = {"basic": basic, "token": bearer, "both": f"{basic}, {bearer}"}[registry.sign_in]
            self.refuse(401, "authentication required", WWW_Authenticate=challenge)
            return False

        def has_token(self, given: str, repository: str, needed: str) -> bool:
            """Return whether a token of this server is for a repository and actions; count its use."""
            token = given.removeprefix("Bearer ")
            if token not in registry.tokens or token == given:
                return False
            registry.tokens[token] += 1
            if registry.token_uses and registry.tokens[token] > registry.token_uses:
                return False
            granted = {scope.rpartition(":")[0]: scope.rpartition(":")[2].split(",") for scope in token.split()[1:]}
            return not repository or set(needed.split(",")) <= set(granted.get(f"repository:{repository}", []))

        def give_token(self, query: dict[str, list[str]], body: bytes) -> None:
            """Answer with a token for the scopes: for a password by GET, for an identity token by POST."""
            if self.command == "POST":
                form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                known = (form.get("grant_type"), form.get("refresh_token")) == ("refresh_token", IDENTITY)
                scopes, name = form.get("scope", "").split(), "access_token"
            else:
                known, scopes, name = self.headers.get("Authorization") == BASIC, query.get("scope", []), "token"
            if not known:
                self.refuse(401, "incorrect username or password")
                return
            registry.scopes.append(scopes)
            token = " ".join([str(len(registry.tokens)), *scopes])
            registry.tokens[token] = 0
            self.answer(200, json.dumps({name: token}).encode())

        def serve(self) -> None:
            url = urlsplit(self.path)
            body = self.body()
            registry.requests.append((self.command, url.path))
            if registry.busy:
                status, retry_after = registry.busy.pop(0)
                self.refuse(status, "pull rate limit", **({"Retry_After": retry_after} if retry_after else {}))
                return
            if registry.moved_to:
                self.answer(308, Location=f"{registry.moved_to}{self.path}")
                return
            if url.path == "/token":
                self.give_token(parse_qs(url.query), body)
                return
            match = re.fullmatch(r"/v2/(?:(.+)/(blobs|manifests)/(uploads/\w*|[^/]+))?", url.path)
            if match is None:
                self.refuse(404, "no such route")
            elif self.may(match[1] or ""):
                self.route(match, parse_qs(url.query), body)

        def route(self, match: re.Match[str], query: dict[str, list[str]], body: bytes) -> None:
            repository, kind, reference = match.groups()
            if kind is None:
                self.answer(200, b"{}")
            elif self.command in ("PUT", "POST") and registry.status:
                self.refuse(registry.status, "the quota is used up")
            elif self.command == "HEAD" and kind == "blobs" and registry.head_status:
                self.answer(registry.head_status)
            elif self.command == "POST":
                self.answer(202, Location=f"{registry.upload_root}/v2/{repository}/blobs/uploads/1?_state=x")
            elif self.command == "PUT" and kind == "blobs":
                (digest,) = query["digest"]
                if digest != digest_of(body):
                    self.refuse(400, "digest invalid")
                    return
                registry.blobs[digest] = body
                self.answer(201)
            elif self.command == "PUT":
                manifest = json.loads(body)
                unknown = {each["digest"] for each in [manifest["config"], *manifest["layers"]]} - set(registry.blobs)
                if unknown:
                    self.refuse(400, "blob unknown to registry")
                    return
                registry.manifests |= {f"{repository}:{name}": body for name in (reference, digest_of(body))}
                self.answer(201)
            else:
                self.read(registry.manifests if kind == "manifests" else registry.blobs, repository, kind, reference)

        def read(self, contents: dict[str, bytes], repository: str, kind: str, reference: str) -> None:
            content = contents.get(f"{repository}:{reference}" if kind == "manifests" else reference)
            if content is None:
                self.refuse(404, "manifest unknown")
                return
            if kind == "blobs" and registry.storage:
                self.answer(307, Location=f"{registry.storage}/{reference}?X-Amz-Signature=1")
                return
            true, sent = digest_of(content), content
            if true in registry.wrong:
                sent = content[:-1] + bytes([content[-1] ^ 1])
            media = "application/vnd.oci.image.manifest.v1+json" if kind == "manifests" else "application/octet-stream"
            digest = {"Docker_Content_Digest": true} if registry.has_digest_header else {}
            self.answer(200, sent, Content_Type=media, **digest)

        do_GET = do_HEAD = do_PUT = do_POST = serve  # noqa: N815 - the names that http.server calls

    return Registry
