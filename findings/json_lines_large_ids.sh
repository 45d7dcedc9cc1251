#!/usr/bin/env bash
# Surprise: one id above 2**63 turns the whole id column of JSON lines into floating point: other ids change too, without
#   an error. 64-bit hashes of texts are such ids.
# Versions: pyarrow 26.0.1, datasets 5.2.0 (load_dataset("json")); pandas 3.1.1 reads the same file exactly.
# Users: write ids as strings, or give the schema: ParseOptions(explicit_schema=...) or features= with uint64.
# Source: type inference goes from int64 straight to double; uint64 is not tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1' 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.json

datasets.disable_progress_bars()
print("pyarrow", pa.__version__, "datasets", datasets.__version__, "pandas", pd.__version__)
print("guess: the column is uint64, or an error names the value")
ids = [9007199254740993, 12345678901234567891]
with open("ids.jsonl", "w") as stream:
    stream.writelines(f'{{"id": {number}}}\n' for number in ids)
by_arrow = pa.json.read_json("ids.jsonl")["id"].to_pylist()
by_datasets = list(datasets.load_dataset("json", data_files="ids.jsonl", cache_dir="cache")["train"]["id"])
by_pandas = pd.read_json("ids.jsonl", lines=True)["id"].tolist()
options = pa.json.ParseOptions(explicit_schema=pa.schema([("id", pa.uint64())]))
exact = pa.json.read_json("ids.jsonl", parse_options=options)["id"].to_pylist()
print("seen:", ids, "pyarrow", by_arrow, "datasets", by_datasets, "pandas", by_pandas, "with a schema", exact)
assert by_arrow == by_datasets == [9007199254740992.0, 1.2345678901234567e19] and by_pandas == exact == ids
PYTHON
