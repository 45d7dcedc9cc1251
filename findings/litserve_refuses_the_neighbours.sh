#!/usr/bin/env bash
# Surprise: one invalid request refuses the valid ones that share its batch: the HTTPException that decode_request
#   raises for one text is the answer to all, with status 422 and a message about a text that they did not send.
# Versions: litserve 0.2.19, fastapi from its requirements, requests 2.34.2.
# Users: decode_request must not raise when max_batch_size is above 1: return the error as a value, skip it in
#   predict, and raise it in encode_response or check requests in a middleware.
# Source: decode, predict and encode of a batch run in one try; its exception is sent to every request of the batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'litserve==0.2.19' 'requests==2.34.2'
cd "$work"
cat > server.py <<'END'
import sys

import litserve
from fastapi import HTTPException


class Upper(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        if not isinstance(request.get("text"), str):
            raise HTTPException(422, "text must be a string")
        return request["text"]

    def predict(self, texts):
        return [text.upper() for text in texts]

    def encode_response(self, output):
        return {"out": output}


if __name__ == "__main__":
    server = litserve.LitServer(Upper(max_batch_size=2, batch_timeout=5), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
END
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
setsid venv/bin/python server.py "$port" >server.log 2>&1 &
server=$!
trap 'kill -- "-$server" 2>/dev/null || true; rm -rf "$work"' EXIT
venv/bin/python - "$port" <<'PYTHON'
import sys
import threading
import time
from importlib.metadata import version

import requests

print("litserve", version("litserve"), "fastapi", version("fastapi"))
print("guess: of two requests that arrive together the valid one is answered, the invalid one gets 422")
address = f"http://127.0.0.1:{sys.argv[1]}"


def is_ready():
    try:
        return requests.get(f"{address}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


deadline = time.monotonic() + 120
while not is_ready():
    assert time.monotonic() < deadline, "the server did not start"
    time.sleep(0.5)


def post(bodies):
    """Send the bodies together; return statuses and answers."""
    answers = {}

    def one(name):
        response = requests.post(f"{address}/predict", json=bodies[name], timeout=60)
        answers[name] = (response.status_code, response.json())

    threads = [threading.Thread(target=one, args=(name,)) for name in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


alone = post({"valid": {"text": "good"}})
together = post({"valid": {"text": "good"}, "invalid": {"text": 5}})
print("seen: alone", alone, "; together", together)
assert alone == {"valid": (200, {"out": "GOOD"})}
assert together["valid"] == together["invalid"] == (422, {"detail": "text must be a string"})
PYTHON
