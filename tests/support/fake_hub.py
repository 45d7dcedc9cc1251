"""A server that speaks the hub's HTTP for the client of huggingface_hub, from folders of this machine.

Small files are answered behind a relative redirect, weights behind one to another port, as the hub's CDN is, which
takes no key. Faults are injected by file name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".bin", ".model")


@dataclass
class FakeHub:
    """Repositories by id, and what the server does wrong."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: Counter[str] = field(default_factory=Counter)  # answers of a file that end in the middle
    wrong: set[str] = field(default_factory=set)  # files of which another byte arrives
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    keys: list[tuple[str, str | None]] = field(default_factory=list)  # of the server and the CDN, by path
    xet: set[str] = field(default_factory=set)  # files that are also in Xet storage, whose server takes no key
    storage: Path | None = None  # folder of repositories that clients create
    private: dict[str, bool] = field(default_factory=dict)  # of those
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256, before their commit
    commits: list[tuple[str, str, str]] = field(default_factory=list)  # repository, revision, query
    status: int = 0  # with which everything is answered, if not 0
    endpoint: str = ""
    cdn: str = ""

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files of a repository."""
        folder = self.repositories[name]
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def paths(self, method: str = "GET") -> list[str]:
        """Return the paths of files that were read."""
        return [path.partition("/resolve/")[2].partition("/")[2] for verb, path in self.requests if verb == method]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a hub and its CDN on two free ports."""
    hub = FakeHub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub, is_cdn=is_cdn)) for is_cdn in (False, True)]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def git_hash(content: bytes) -> str:
    """Return the hash that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def answer_write(hub: FakeHub, path: str, query: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and answer of the routes by which a client creates, uploads (LFS, basic transfer) and commits."""
    if path.startswith("/upload/"):
        digest = hashlib.sha256(body).hexdigest()
        hub.uploaded[digest] = body
        return (200, {}) if digest == path.removeprefix("/upload/") else (400, {"error": "another file"})
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path.endswith(".git/info/lfs/objects/batch"):
        upload = {o["oid"]: {"upload": {"href": f"{hub.cdn}/upload/{o['oid']}"}} for o in json.loads(body)["objects"]}
        objects = [{**o, "actions": upload[o["oid"]]} for o in json.loads(body)["objects"]]
        return 200, {"transfer": "basic", "objects": objects}
    if path == "/api/repos/create":
        value = json.loads(body)
        name = f"{value['organization']}/{value['name']}"
        if name in hub.repositories:
            return 409, {"error": "exists", "url": f"{hub.endpoint}/{name}"}
        assert hub.storage is not None
        hub.repositories[name] = hub.storage / name
        hub.private[name] = value["visibility"] == "private"
        return 200, {"url": f"{hub.endpoint}/{name}", "id": name}
    name, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
    if rest:
        files = [file["path"] for file in json.loads(body)["files"]]
        modes = {file: "lfs" if file.endswith((*LFS, ".mar", ".png")) else "regular" for file in files}
        return 200, {"files": [{"path": f, "uploadMode": modes[f], "shouldIgnore": False} for f in files]}
    name, _, rest = path.removeprefix("/api/models/").partition("/commit/")
    if not rest:
        return 200, {}  # of a branch
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] in ("file", "lfsFile"):
            content = base64.b64decode(value["content"]) if line["key"] == "file" else hub.uploaded[value["oid"]]
            target = hub.repositories[name] / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    hub.commits.append((name, rest, query))
    url = f"{hub.endpoint}/{name}"
    pull_request = {"pullRequestUrl": f"{url}/discussions/1"} if "create_pr=1" in query else {}
    return 200, {"success": True, "commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT, **pull_request}


def handler_of(hub: FakeHub, *, is_cdn: bool) -> type[BaseHTTPRequestHandler]:
    """Return the handler of one of the two servers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            hub.keys.append(("cdn" if is_cdn else "hub", self.headers.get("authorization")))
            if hub.status and not is_cdn:
                self.reply(hub.status, b"")
            elif is_cdn:
                name, _, file = path.removeprefix("/").partition("/-/")
                self.send_file(file, hub.files(name)[file])
            elif "/xet-read-token/" in path:
                self.refuse(403, "NoXet")
            elif path.startswith("/api/models/"):
                self.send_listing(path.removeprefix("/api/models/"))
            elif path.startswith("/cached/"):
                name, _, file = path.removeprefix("/cached/").partition("/-/")
                self.send_file(file, hub.files(name)[file])
            else:
                self.send_resolved(path)

        def do_POST(self) -> None:
            address = urlsplit(self.path)
            body = b"".join(self.parts())
            hub.requests.append((self.command, unquote(address.path)))
            if hub.status and not is_cdn:
                self.reply(hub.status, b"{}")
                return
            status, value = answer_write(hub, unquote(address.path), address.query, body)
            self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

        def parts(self) -> Iterator[bytes]:
            """Yield the body, which a client sends whole or in chunks."""
            if self.headers.get("transfer-encoding") != "chunked":
                yield self.rfile.read(int(self.headers.get("content-length", 0)))
                return
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        do_PUT = do_POST  # noqa: N815 - as above

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *arguments: Any) -> None:
            pass

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.reply(status, json.dumps({"error": code}).encode(), X_Error_Code=code, X_Error_Message=code)

        def is_known(self, name: str, revision: str) -> bool:
            if name not in hub.repositories:
                self.refuse(401 if name.startswith("private/") else 404, "RepoNotFound")
            elif name in hub.gated and self.headers.get("authorization") is None:
                self.refuse(401, "GatedRepo")
            elif revision not in ("main", "v1", "refs/pr/1", COMMIT):
                self.refuse(404, "RevisionNotFound")
            else:
                return True
            return False

        def send_listing(self, path: str) -> None:
            name, separator, revision = path.partition("/tree/")
            is_tree = bool(separator)
            if not is_tree:
                name, _, revision = path.partition("/revision/")
            if not self.is_known(name, revision or "main"):
                return
            entries: list[dict[str, Any]] = []
            for file, content in hub.files(name).items():
                entry: dict[str, Any] = {
                    "type": "file",
                    "path": file,
                    "size": len(content),
                    "oid": git_hash(content),
                }
                if file.endswith(LFS):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                    entry["oid"] = git_hash(digest.encode())
                entries.append(entry)
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            value = entries if is_tree else {"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}
            self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

        def send_resolved(self, path: str) -> None:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            if not self.is_known(name, revision):
                return
            content = hub.files(name).get(file)
            if content is None:
                self.refuse(404, "EntryNotFound")
                return
            if file.endswith(LFS):
                headers = {
                    "X_Linked_Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                    "X_Linked_Size": str(len(content)),
                }
                if file in hub.xet:
                    route = f"{hub.endpoint}/api/models/{name}/xet-read-token/{COMMIT}"
                    headers |= {"X_Xet_Hash": hashlib.sha256(content).hexdigest(), "Link": f'<{route}>; rel="xet-auth"'}
                location = f"{hub.cdn}/{name}/-/{file}"
                self.reply(302, b"", X_Repo_Commit=COMMIT, Location=location, **headers)
                return
            self.reply(307, b"", X_Repo_Commit=COMMIT, Location=f"/cached/{name}/-/{file}")

        def send_file(self, file: str, content: bytes) -> None:
            if file in hub.wrong:
                content = bytes([content[0] ^ 1]) + content[1:]
            etag = f'"{git_hash(content)}"'
            start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            part, status = content[start:], 206 if start else 200
            is_cut = self.command == "GET" and hub.cut[file] > 0
            self.send_response(status)
            for header, value in (("ETag", etag), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(part)))):
                self.send_header(header, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if is_cut:
                hub.cut[file] -= 1
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
            elif self.command == "GET":
                self.wfile.write(part)

    return Handler
