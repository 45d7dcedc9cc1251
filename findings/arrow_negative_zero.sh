#!/usr/bin/env bash
# Surprise: Arrow groups 0.0 and -0.0 apart and does not join them, though it calls them equal; pandas takes them as one
#   value. Rounded scores are full of -0.0.
# Versions: pyarrow 26.0.1, pandas 3.1.1.
# Users: add 0.0 to a rounded column before grouping or joining (-0.0 + 0.0 is 0.0), or group by text or integers.
# Source: hashing for groups, joins and unique goes by the bits of a number; comparison by its value.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1' 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

print("pyarrow", pa.__version__, "pandas", pd.__version__)
print("guess: numbers that are equal fall into one group")
scores = pc.round(pa.array([-0.001, 0.001]), 2)
table = pa.table({"score": scores, "n": [1, 1]})
groups = table.group_by("score").aggregate([("n", "sum")]).to_pylist()
joined = pa.table({"score": [0.0]}).join(pa.table({"score": [-0.0], "n": [1]}), "score").to_pylist()
by_pandas = table.to_pandas().groupby("score")["n"].sum().to_dict()
equal = pc.equal(scores[0], scores[1]).as_py()
print("seen: rounded", scores.to_pylist(), "equal:", equal, "groups", groups, "joined", joined, "pandas", by_pandas)
assert equal and len(groups) == 2 and joined == [{"score": 0.0, "n": None}] and by_pandas == {0.0: 2}
PYTHON
