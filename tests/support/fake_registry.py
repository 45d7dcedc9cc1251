"""A server that speaks the OCI distribution protocol, with the two ways in which registries sign clients in.

Tokens are as strict as those of the registry `distribution`: each is for the actions of the request that was refused.
Faults are injected by digest. Tried beside it by hand: the registry of Debian's docker-registry (docs/models.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "mia", "a:b"


@dataclass
class FakeRegistry:
    """Blobs and manifests by name, and what the server does wrong."""

    sign_in: str = ""  # "basic", "token", or nothing
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)  # by REPOSITORY:TAG and REPOSITORY:DIGEST
    wrong: set[str] = field(default_factory=set)  # digests of which another byte arrives
    status: int = 0  # with which every upload is answered, if not 0
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    host: str = ""


@contextmanager
def fake_registry(sign_in: str = "") -> Iterator[FakeRegistry]:
    """Run a registry on a free port."""
    registry = FakeRegistry(sign_in)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(registry))
    registry.host = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


def digest_of(content: bytes) -> str:
    """Return the digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def handler_of(registry: FakeRegistry) -> type[BaseHTTPRequestHandler]:
    """Return the handler of a registry."""
    basic = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, message: str, **headers: str) -> None:
            self.answer(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode(), **headers)

        def may(self, repository: str) -> bool:
            """Answer a request that is not signed in, or not for this action, with the challenge."""
            action = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            scope = f"repository:{repository}:{action}" if repository else ""
            given = self.headers.get("Authorization", "")
            if registry.sign_in == "basic" and given != basic:
                self.refuse(401, "authentication required", WWW_Authenticate='Basic realm="test"')
            elif registry.sign_in == "token" and given != f"Bearer {scope}":
                challenge = f'Bearer realm="http://{registry.host}/token",service="test",scope="{scope}"'
                self.refuse(401, "authentication required", WWW_Authenticate=challenge)
            else:
                return True
            return False

        def serve(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            registry.requests.append((self.command, url.path))
            if url.path == "/token":
                known = self.headers.get("Authorization") == basic
                scope = parse_qs(url.query).get("scope", [""])[0]
                self.answer(200 if known else 401, json.dumps({"token": scope}).encode() if known else b"{}")
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
            elif self.command == "POST":
                self.answer(202, Location=f"/v2/{repository}/blobs/uploads/1?_state=x")
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
            true, sent = digest_of(content), content
            if true in registry.wrong:
                sent = content[:-1] + bytes([content[-1] ^ 1])
            media = "application/vnd.oci.image.manifest.v1+json" if kind == "manifests" else "application/octet-stream"
            self.answer(200, sent, Docker_Content_Digest=true, Content_Type=media)

        def log_message(self, *words: object) -> None:
            """Be quiet."""

        do_GET = do_HEAD = do_PUT = do_POST = serve  # noqa: N815 - the names that http.server calls

    return Handler
