#!/usr/bin/env bash
# Surprise: allow_patterns="*.json" also takes files of every subfolder, and "**/*.json" leaves out those at the top: the
#   reverse of a shell's rules.
# Versions: huggingface_hub 2.4.0 (snapshot_download, upload_folder and others share the filter).
# Users: to leave out onnx/, openvino/ and the like, name them in ignore_patterns ("onnx/*"); a folder's name without a
#   slash matches nothing.
# Source: patterns go to fnmatch, for which a star matches slashes too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'huggingface-hub==2.4.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import huggingface_hub
from huggingface_hub.utils import filter_repo_objects

print("huggingface_hub", huggingface_hub.__version__)
print('guess: "*.json" takes the top folder only, "**/*.json" all folders')
files = ["config.json", "onnx/config.json", "onnx/model.onnx"]
seen = {pattern: list(filter_repo_objects(files, allow_patterns=pattern)) for pattern in ("*.json", "**/*.json")}
seen |= {"not " + pattern: list(filter_repo_objects(files, ignore_patterns=pattern)) for pattern in ("onnx", "onnx/")}
print("seen:", seen)
assert seen["*.json"] == ["config.json", "onnx/config.json"] and seen["**/*.json"] == ["onnx/config.json"]
assert seen["not onnx"] == files and seen["not onnx/"] == ["config.json"]
PYTHON
