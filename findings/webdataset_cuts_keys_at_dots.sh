#!/usr/bin/env bash
# Surprise: TarWriter writes samples under keys with a dot (2401.00001, report-1.10) without a word, and WebDataset
#   reads them as one sample: the key ends at the first dot. Three papers of one month become one, which has three texts
#   and no "txt".
# Versions: webdataset 1.0.2.
# Users: replace the dots in keys before writing, and compare the number of samples after writing.
# Source: a name is split at its first dot into the key and the extension; only equal extensions raise an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'webdataset==1.0.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import webdataset

print("webdataset", version("webdataset"))
print("guess: what is written under a key is read under that key")
papers = {"2401.00001": "one", "2401.00002": "two", "2401.00003": "three", "2402.00001": "four"}
with webdataset.TarWriter("papers.tar") as writer:
    for key, text in papers.items():
        writer.write({"__key__": key, "txt": text})
samples = list(webdataset.WebDataset("papers.tar", shardshuffle=False).decode())
read = [{key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")} for sample in samples]
print("seen: written", papers, "read", read)
assert [sample["__key__"] for sample in read] == ["2401", "2402"] and not any("txt" in sample for sample in read)
assert [value for key, value in read[0].items() if key.endswith(".txt")] == ["one", "two", "three"]
PYTHON
