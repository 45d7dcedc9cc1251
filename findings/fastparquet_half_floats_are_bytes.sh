#!/usr/bin/env bash
# Surprise: a column of half-precision numbers is read as pairs of bytes, and a 64-bit id column with one missing value
#   as floats, which changes large ids; a column of embeddings is written as JSON text, not as lists. Nothing is said.
# Versions: fastparquet 2026.9.0, pandas 3.1.1, pyarrow 26.0.1.
# Users: pass engine="pyarrow" to read_parquet and to_parquet of pandas for embeddings and ids.
# Source: logical types of the format that the library does not know are left as they are stored; lists have no writer.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'fastparquet==2026.9.0' 'pandas==3.1.1' 'pyarrow==26.0.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
import pandas
import pyarrow
from pyarrow import parquet

print("fastparquet", version("fastparquet"), "pandas", pandas.__version__, "pyarrow", pyarrow.__version__)
print("guess: both engines of pandas read the same file to the same numbers, and read what the other wrote")
table = pyarrow.table({"score": numpy.array([1, 0.5], dtype=numpy.float16), "id": [2**53 + 1, None]})
parquet.write_table(table, "scores.parquet")
read = pandas.read_parquet("scores.parquet", engine="fastparquet")
score, number = read["score"][0], int(read["id"][0])
pandas.DataFrame({"embedding": [[1.0, 2.0], [3.0, 4.0]]}).to_parquet("vectors.parquet", engine="fastparquet")
written = parquet.read_table("vectors.parquet")["embedding"]
print("seen: 1.0 as", score, "id", 2**53 + 1, "as", number, "an embedding as", repr(written[0].as_py()), written.type)
assert bytes(score) == numpy.float16(1).tobytes() and number == 2**53
assert not pyarrow.types.is_list(written.type) and "[1.0,2.0]" in str(written.to_pylist()[0]).replace(" ", "")
PYTHON
