#!/usr/bin/env bash
# Surprise: load_dataset("json") turns strings that look like dates into timestamps in UTC, even if features= says
#   string: "2024-01-01T00:30:00+02:00" becomes "2023-12-31 22:30:00", the day before, and to_json writes
#   milliseconds. If one other string is among them, all stay as they are.
# Versions: datasets 5.2.0, pyarrow 26.0.1; Dataset.from_list and pandas keep the strings.
# Users: read such files with the json module and Dataset.from_list, or keep a letter in ids and labels that look like
#   dates. Compare one row with the file.
# Source: pyarrow's JSON reader infers timestamps from ISO 8601 strings; features= is applied by a cast after that.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json

import datasets
import pyarrow
from datasets import Dataset, Features, Value, load_dataset

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__)
print("guess: quoted strings are strings, above all where the features say so, and to_json writes what was read")
strings = Features({"day": Value("string"), "said": Value("string")})


def read(rows, **options):
    with open("in.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return load_dataset("json", data_files="in.jsonl", split="train", cache_dir="cache", **options)


dates = [{"day": "2024-01-01", "said": "2024-01-01T00:30:00+02:00"}, {"day": "2024-02-01", "said": "2024-02-01T10:00:00Z"}]
read(dates).to_json("out.jsonl")
written = json.loads(open("out.jsonl").readline())
as_strings = read(dates, features=strings)[0]
beside_others = read([*dates, {"day": "n/a", "said": ""}])[0]
print("seen:", dates[0], "becomes", as_strings, "with string features; to_json writes", written, "; beside one n/a it is", beside_others)
assert written == {"day": 1704067200000, "said": 1704061800000}
assert as_strings == {"day": "2024-01-01 00:00:00", "said": "2023-12-31 22:30:00"}
assert beside_others == Dataset.from_list(dates)[0] == dates[0]
PYTHON
