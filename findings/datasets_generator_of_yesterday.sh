#!/usr/bin/env bash
# Surprise: Dataset.from_generator returns yesterday's rows: a generator that reads a file, given the same arguments, is not
#   run again after the file has changed, also in another process; the cache in the home folder answers.
# Versions: datasets 5.2.0; from_text of the same file sees the change.
# Users: pass something that changes with the data (a hash or the time of the file) in gen_kwargs, or a new cache_dir;
#   disable_caching does not help.
# Source: the name of the cached table is a hash of the generator and its arguments; only their values count.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import datasets

Path("rows.py").write_text('''
import sys
import datasets
datasets.disable_progress_bars()
if "disable" in sys.argv:
    datasets.disable_caching()
def rows(path):
    for line in open(path):
        yield {"text": line.strip()}
print(datasets.Dataset.from_generator(rows, gen_kwargs={"path": "texts.txt"})["text"][:],
      datasets.Dataset.from_text("texts.txt")["text"][:], sep=" | ")
''')
print("datasets", datasets.__version__)
print("guess: a generator is run when it is given")
seen = []
for text, argument in (("old", ""), ("new", ""), ("newest", "disable")):
    Path("texts.txt").write_text(text)
    done = subprocess.run([sys.executable, "rows.py", argument], capture_output=True, text=True, check=True)
    seen.append(done.stdout.strip())
print("seen: from_generator | from_text after each change of the file:", seen)
assert seen == ["['old'] | ['old']", "['old'] | ['new']", "['old'] | ['newest']"]
PYTHON
