#!/usr/bin/env bash
# Surprise: OrasClient.pull compares nothing with a digest: a registry or proxy that sends other bytes for a layer, or
#   another manifest for name@sha256:..., is believed, and no error is raised.
# Versions: oras 0.2.43 (Python); skopeo 1.9.3 refuses both.
# Users: hash each pulled file and compare it with the layer's digest, and the raw manifest with the digest that you pinned.
# Source: download_blob writes the stream as it comes, get_manifest returns response.json().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'oras==0.2.43'
cd "$work"
HOME="$work" venv/bin/python - <<'PYTHON'
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import oras.client
import oras.version

true, sent = b"the weights that were pushed", b"other weights of that length"
digest = "sha256:" + hashlib.sha256(true).hexdigest()
title = {"org.opencontainers.image.title": "model.safetensors"}
layer = {"mediaType": "application/octet-stream", "digest": digest, "size": len(true), "annotations": title}
manifest = json.dumps({"schemaVersion": 2, "config": {}, "layers": [layer]}).encode()
pinned = "sha256:" + hashlib.sha256(b"another manifest").hexdigest()


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        body = sent if "/blobs/" in self.path else manifest
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"127.0.0.1:{server.server_port}"
print("oras", oras.version.__version__)
print("guess: a layer that is not the one of its digest, and a manifest that is not the pinned one, are refused")
(file,) = oras.client.OrasClient(host, insecure=True).pull(f"{host}/mine@{pinned}", outdir="pulled")
print("seen:", Path(file).read_bytes())
assert Path(file).read_bytes() == sent != true and pinned != "sha256:" + hashlib.sha256(manifest).hexdigest()
PYTHON
