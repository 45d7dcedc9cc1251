#!/usr/bin/env bash
# Surprise: labels that name the folders of a partitioned dataset become numbers when it is read: "01" and "1" are one
#   label, "007" is 7, with PyArrow and Polars; load_dataset has no column of labels at all. DuckDB keeps the strings
#   here.
# Versions: pyarrow 26.0.1, polars 2.1.0, duckdb 2.0.1, datasets 5.2.0.
# Users: pass the type of the partition: partitioning=dataset.partitioning(schema, flavor="hive") or hive_schema=, and
#   keep the label in the files too.
# Source: a value of which only the name of a folder is left is guessed from its letters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1' 'polars==2.1.0' 'duckdb==2.0.1' 'datasets==5.2.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import datasets
import duckdb
import polars
import pyarrow
from pyarrow import parquet

print("pyarrow", pyarrow.__version__, "polars", polars.__version__, "duckdb", duckdb.__version__, "datasets", version("datasets"))
print("guess: a column of strings that is written is read as a column of strings")
datasets.disable_progress_bars()
labels = ["007", "01", "1"]
parquet.write_to_dataset(pyarrow.table({"text": ["a", "b", "c"], "label": labels}), "texts", partition_cols=["label"])
seen = {
    "pyarrow": parquet.read_table("texts")["label"].to_pylist(),
    "polars": polars.scan_parquet("texts/").collect()["label"].to_list(),
    "duckdb": [label for (label,) in duckdb.sql("SELECT label FROM 'texts/*/*.parquet' ORDER BY label").fetchall()],
    "datasets": datasets.load_dataset("parquet", data_dir="texts", cache_dir="cache")["train"].column_names,
}
print("seen: written", labels, "read", seen)
assert seen == {"pyarrow": [7, 1, 1], "polars": [7, 1, 1], "duckdb": labels, "datasets": ["text"]}
PYTHON
