#!/usr/bin/env bash
# Surprise: of two extra files with the same name the first is lost without an error: the archive holds one config.json,
#   that of the file or folder named last.
# Versions: torch-model-archiver 0.12.0.
# Users: an archive of two models (a retriever and a reranker) needs subfolders: stage them below one folder and pass
#   that. List the archive's files after building.
# Source: every extra file is copied to the archive's root under its base name, the contents of folders too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch-model-archiver==0.12.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import subprocess
import zipfile
from importlib.metadata import version
from pathlib import Path

print("torch-model-archiver", version("torch-model-archiver"))
print("guess: an error, or both files below their folders")
for folder in ("retriever", "reranker"):
    Path(folder).mkdir()
    Path(folder, "config.json").write_text(folder)
Path("handler.py").write_text("class Handler:\n    pass\n")
command = ["venv/bin/torch-model-archiver", "--model-name", "pair", "--version", "1.0", "--handler", "handler.py"]
seen = {}
for extra in ("retriever/config.json,reranker/config.json", "reranker,retriever"):
    subprocess.run([*command, "--extra-files", extra, "--force"], check=True)
    with zipfile.ZipFile("pair.mar") as archive:
        seen[extra] = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith("config.json")}
print("seen: extra files, configs in the archive:", seen)
assert list(seen.values()) == [{"config.json": "reranker"}, {"config.json": "retriever"}]
PYTHON
