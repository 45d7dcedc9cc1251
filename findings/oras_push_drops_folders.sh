#!/usr/bin/env bash
# Surprise: OrasClient.push names each layer by the last part of its path: config.json and 1_Pooling/config.json become two
#   layers of one name, and pull writes the second over the first. Nothing is said at either end.
# Versions: oras 0.2.43 (Python).
# Users: push the folder as a whole (it becomes a tar file), or write the layers yourself with the path as
#   org.opencontainers.image.title. Folders of sentence-transformers have several config.json.
# Source: push() takes os.path.basename(blob) for the annotation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'oras==0.2.43'
cd "$work"
HOME="$work" venv/bin/python - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import oras.client
import oras.version

contents = {}


class Registry(BaseHTTPRequestHandler):
    """As much of the distribution protocol as a push and a pull need."""

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.answer(200 if name in contents else 404, contents.get(name, b""))

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(202, Location="/v2/mine/blobs/uploads/1")

    def do_PUT(self):
        url = urlsplit(self.path)
        name = parse_qs(url.query).get("digest", [url.path.rpartition("/")[2]])[0]
        contents[name] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201)

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"127.0.0.1:{server.server_port}"
Path("1_Pooling").mkdir()
Path("config.json").write_text('{"model_type": "bert"}')
Path("1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
print("oras", oras.version.__version__)
print("guess: two files are pushed and two come back")
client = oras.client.OrasClient(host, insecure=True)
client.push(f"{host}/mine:1", files=["config.json", "1_Pooling/config.json"])
client.pull(f"{host}/mine:1", outdir="pulled")
pulled = {str(path.relative_to("pulled")): path.read_text() for path in Path("pulled").rglob("*") if path.is_file()}
print("seen:", pulled)
assert len(json.loads(contents["1"])["layers"]) == 2
assert pulled == {"config.json": '{"pooling_mode_mean_tokens": true}'}
PYTHON
