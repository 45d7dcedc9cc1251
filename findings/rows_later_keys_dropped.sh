#!/usr/bin/env bash
# Surprise: a table made of dictionaries has the keys of the first one only; keys that appear later are dropped without
#   a word, also by Dataset.map.
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Users: put every key into the first row (None where it is unknown), or pass features= or schema=. Check column_names.
# Source: Dataset.from_list and Table.from_pylist take the column names from element 0; map takes them from the first result.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import datasets
import pyarrow as pa

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pyarrow", pa.__version__)
print("guess: the columns are the union of all keys, missing values None")
rows = [{"text": "fine"}, {"text": "bad", "label": "negative"}]
by_datasets = datasets.Dataset.from_list(rows).column_names
by_pyarrow = pa.Table.from_pylist(rows).column_names
mapped = datasets.Dataset.from_dict({"n": [1, 2]}).map(lambda row: {"a": 1} if row["n"] == 1 else {"a": 1, "note": "x"})
print("seen: from_list", by_datasets, "from_pylist", by_pyarrow, "map", mapped.column_names)
assert by_datasets == by_pyarrow == ["text"] and mapped.column_names == ["n", "a"]
PYTHON
