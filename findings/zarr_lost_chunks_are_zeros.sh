#!/usr/bin/env bash
# Surprise: an array one of whose files is lost is read without an error: the embeddings of that file are zeros. An
#   upload that was interrupted, an object that expired or a copy that skipped a file looks like a whole array, also for
#   every later write.
# Versions: zarr 3.1.6, numpy 2.4.6.
# Users: write float arrays with fill_value=nan, so that a hole shows, and compare nchunks_initialized with nchunks
#   after every copy.
# Source: a chunk that was never written is stored as no file and read as the fill value, which is 0 by default; the two
#   cases are the same to a reader.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'zarr==3.1.6' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy
import zarr

warnings.filterwarnings("ignore")
print("zarr", version("zarr"), "numpy", version("numpy"))
print("guess: reading an array of which a file is missing is an error")


def after_loss(name, **options):
    """Return an array of 1000 embeddings in ten files after one file was removed, and how it is opened."""
    array = zarr.create_array(name, shape=(1000, 8), chunks=(100, 8), dtype="float32", **options)
    array[:] = numpy.ones((1000, 8), "float32")
    files = sorted(path for path in Path(name, "c").rglob("*") if path.is_file())
    assert len(files) == 10
    files[3].unlink()
    return zarr.open_array(store=name, mode="r")


array = after_loss("embeddings.zarr")
zeros = int((array[:] == 0).all(axis=1).sum())
holes = int(numpy.isnan(after_loss("nan.zarr", fill_value=numpy.nan)[:]).all(axis=1).sum())
print("seen:", zeros, "of 1000 rows are zeros;", array.nchunks_initialized, "of", array.nchunks, "files; with fill_value=nan", holes, "rows are NaN")
assert zeros == 100 == holes and (array.nchunks_initialized, array.nchunks) == (9, 10)
PYTHON
