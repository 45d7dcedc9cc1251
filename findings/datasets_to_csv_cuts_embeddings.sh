#!/usr/bin/env bash
# Surprise: Dataset.to_csv writes a list of more than 1000 numbers as "[0.000e+00 1.000e+00 ... 1.023e+03]": the numbers
#   in the middle are not in the file. Shorter lists are written without commas, over several lines.
# Versions: datasets 5.2.0, pandas 3.1.1, numpy 2.4.6.
# Users: write embeddings and token lists with to_parquet or to_json; a CSV of them cannot be read back.
# Source: to_csv hands numpy arrays to pandas, which writes their str(); numpy shortens that from 1000 elements on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==26.0.1' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import csv

import datasets
import numpy as np
import pandas as pd

datasets.disable_progress_bars()
print("datasets", datasets.__version__, "pandas", pd.__version__, "numpy", np.__version__)
print("guess: every number of a 1024-dimensional embedding is in the file")
dataset = datasets.Dataset.from_dict({"embedding": [[float(i) for i in range(1024)], [0.5, 0.25]]})
dataset.to_csv("embeddings.csv")
with open("embeddings.csv", newline="") as stream:
    long, short = [row["embedding"] for row in csv.DictReader(stream)]
print("seen:", repr(long), "and", repr(short))
assert "..." in long and len(long) < 100 and "," not in short
PYTHON
