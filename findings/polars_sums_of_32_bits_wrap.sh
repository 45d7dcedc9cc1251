#!/usr/bin/env bash
# Surprise: the sum of a 32-bit column is counted in 32 bits: two texts of 2**31 bytes have 0 bytes together, for
#   len_bytes() and len_chars() give 32-bit numbers, so the size of a corpus above 4 GB is wrong, also by group.
#   Columns of 8 and 16 bits are summed in 64, but sum_horizontal and dot of them wrap too: 130 votes are -126. Nothing
#   is said.
# Versions: polars 2.1.0, pyarrow 26.0.1 (sums in 64 bits).
# Users: cast to Int64 before sum(), cum_sum(), dot() and sum_horizontal(); compare one sum with that of floats.
# Source: a sum has the type of its column from 32 bits on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'polars==2.1.0' 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import polars
import pyarrow
from pyarrow import compute

print("polars", polars.__version__, "pyarrow", pyarrow.__version__)
print("guess: a sum that does not fit the type is widened or refused")
lengths = polars.Series("bytes", [2**31, 2**31], dtype=polars.UInt32)
assert polars.Series(["a text"]).str.len_bytes().dtype == polars.Series(["a text"]).str.len_chars().dtype == polars.UInt32
frame = polars.DataFrame({"split": ["train", "train"], "bytes": lengths})
votes = polars.DataFrame({f"annotator {number}": polars.Series([1], dtype=polars.Int8) for number in range(130)})
codes = polars.Series([100, 100], dtype=polars.Int8)
seen = {
    "sum": lengths.sum(),
    "by group": frame.group_by("split").agg(polars.col("bytes").sum())["bytes"][0],
    "pyarrow": compute.sum(pyarrow.array([2**31, 2**31], pyarrow.uint32())).as_py(),
    "sum of eight bits": codes.sum(),
    "dot of eight bits": codes.dot(codes),
    "votes": votes.select(polars.sum_horizontal(polars.all())).item(),
}
print("seen:", seen)
assert seen == {"sum": 0, "by group": 0, "pyarrow": 2**32, "sum of eight bits": 200, "dot of eight bits": 20000 % 256, "votes": -126}
PYTHON
