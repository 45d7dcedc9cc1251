#!/usr/bin/env bash
# Surprise: the JSON that Java's own HTTP client posts to a uvicorn server is empty there, if httptools is installed.
# Versions: uvicorn 0.54.0, httptools 0.9.0, h11 0.16.0.
# Users: java.net.http offers HTTP/2 (Upgrade: h2c) with each request to a plain http:// address until the server speaks it. Set
#        version(HttpClient.Version.HTTP_1_1) in the client, or --http h11 on the server; a proxy in between drops the offer too.
# Source: httptools stops parsing at an Upgrade header; uvicorn then goes on with the request, but what follows is not read.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'uvicorn==0.54.0' 'httptools==0.9.0' 'h11==0.16.0'
cd "$work"
venv/bin/python - <<'PYTHON'
import socket
import threading
import time
from importlib.metadata import version

import uvicorn

BODY = b'{"text": "hello"}'
# As java.net.http.HttpClient of Java 17 sends it with its defaults.
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"


async def count(scope, receive, send):
    if scope["type"] != "http":
        return
    n, more = 0, True
    while more:
        message = await receive()
        n += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(n)))]})
    await send({"type": "http.response.body", "body": str(n).encode()})


def post(port, headers):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = b"POST / HTTP/1.1\r\nHost: server\r\n%sContent-Length: %d\r\n\r\n" % (headers, len(BODY))
        connection.sendall(head + BODY)
        answer = b""
        while not answer.partition(b"\r\n\r\n")[2]:
            answer += connection.recv(65536)
    return int(answer.partition(b"\r\n\r\n")[2])


print(*(f"{name} {version(name)}" for name in ("uvicorn", "httptools", "h11")))
print("guess: an offer of HTTP/2 that a server does not take changes nothing about the request: 17 bytes in all cases")
seen = {}
for http in ("httptools", "h11"):
    server = uvicorn.Server(uvicorn.Config(count, port=0, http=http, log_level="critical"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    seen[http] = (post(port, b""), post(port, OFFER))
print("seen: bytes without and with the offer", seen)
assert seen == {"httptools": (17, 0), "h11": (17, 17)}
PYTHON
