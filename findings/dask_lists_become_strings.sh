#!/usr/bin/env bash
# Surprise: dask.dataframe turns a column of lists or arrays into strings: the embedding [1.0, 2.0] becomes "[1.0,
#   2.0]", tokens become "['a', 'b']", and an array of more than 1000 numbers loses those in the middle for good.
#   Nothing is said.
# Versions: dask 2026.8.0, pandas 2.3.3.
# Users: dask.config.set({"dataframe.convert-string": False}) before the data frame is made, or read Parquet, which has
#   lists as a type.
# Source: every column of Python objects is taken for text and converted to a string type.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'dask[dataframe]==2026.8.0' 'pandas==2.3.3' 'pyarrow==26.0.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import dask
import dask.dataframe
import numpy
import pandas

print("dask", version("dask"), "pandas", version("pandas"))
print("guess: a data frame that goes through dask comes back as it was")
frame = pandas.DataFrame({"tokens": [["a", "b"], ["c"]], "embedding": [numpy.arange(1024.0), numpy.zeros(1024)]})
back = dask.dataframe.from_pandas(frame, npartitions=1).compute()
print("seen:", [(name, type(back[name][0]).__name__, str(back[name][0])) for name in back])
assert back["tokens"][0] == "['a', 'b']" and "..." in back["embedding"][0] and "500." not in back["embedding"][0]
with dask.config.set({"dataframe.convert-string": False}):
    kept = dask.dataframe.from_pandas(frame, npartitions=1).compute()
print("seen: with convert-string False", [(name, type(kept[name][0]).__name__) for name in kept])
assert kept["tokens"][0] == ["a", "b"] and (kept["embedding"][0] == frame["embedding"][0]).all()
PYTHON
