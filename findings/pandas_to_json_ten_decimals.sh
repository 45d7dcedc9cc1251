#!/usr/bin/env bash
# Surprise: DataFrame.to_json keeps ten decimals: the probability 1e-12 is written as 0.0, so its logarithm is minus
#   infinity; and read_json does not give back the doubles that are written exactly.
# Versions: pandas 3.1.1.
# Users: pass double_precision=15 and, where exactness counts, write with the json module; read with precise_float=True.
# Source: double_precision is 10 by default and counts decimals, not digits; the reader's default parser trades exactness for speed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io
import json

import pandas as pd

print("pandas", pd.__version__)
print("guess: a double is written so that reading gives it back")
written = pd.DataFrame({"p": [1e-12, 1 / 3]}).to_json(orient="records")
number = 1.7976931348623157e308
text = json.dumps([{"x": number}])
quick = pd.read_json(io.StringIO(text))["x"][0]
precise = pd.read_json(io.StringIO(text), precise_float=True)["x"][0]
print("seen:", written, "; read:", quick, "with precise_float:", precise)
assert json.loads(written) == [{"p": 0.0}, {"p": 0.3333333333}]
assert quick != number and precise == number
PYTHON
