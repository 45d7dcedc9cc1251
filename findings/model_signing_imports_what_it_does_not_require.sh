#!/usr/bin/env bash
# Surprise: OpenSSF's model-signing cannot be imported after pip install, not even to verify with a plain key.
# Versions: model-signing 1.1.1.
# Users: install pyOpenSSL beside it and pin that yourself: no resolver knows that it is needed.
# Source: model_signing imports OpenSSL for certificates at its start, and its metadata does not name pyOpenSSL.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'model-signing==1.1.1'
cd "$work"
try='
try:
    import model_signing
    print("imported")
except ModuleNotFoundError as error:
    print("no module", error.name)
'
echo "model-signing $(venv/bin/python -c 'from importlib.metadata import version; print(version("model-signing"))')"
echo "guess: it can be imported once it is installed"
without=$(venv/bin/python -c "$try")
venv/bin/pip install --quiet 'pyOpenSSL==26.4.0'
with=$(venv/bin/python -c "$try")
echo "seen: after pip install: $without; with pyOpenSSL 26.4.0 beside it: $with"
[ "$without" = "no module OpenSSL" ] && [ "$with" = imported ]
