#!/usr/bin/env bash
# Surprise: a missing text in a table is sent as the text "nan" or "None": the server classifies that word.
# Versions: tritonclient 2.73.0, pandas 3.1.1.
# Users: drop or fill missing values before set_data_from_numpy; a BYTES tensor has no null.
# Source: elements of a BYTES array that are not bytes are written as str(element), whatever they are.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tritonclient[http]==2.73.0' 'numpy==2.4.6' 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
import tritonclient.http as client
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

print("tritonclient", version("tritonclient"), "pandas", pd.__version__)
print("guess: a missing value raises an error")
texts = pd.DataFrame({"text": ["fine", np.nan]})["text"].to_numpy(dtype=object)
binary = deserialize_bytes_tensor(serialize_byte_tensor(np.array([*texts, None, 7], dtype=object)).item()).tolist()
tensor = client.InferInput("text", [2], "BYTES")
tensor.set_data_from_numpy(texts, binary_data=False)
sent = tensor._get_tensor()["data"]
print("seen: in the binary form", binary, "in the JSON form", sent)
assert binary == [b"fine", b"nan", b"None", b"7"] and sent == ["fine", "nan"]
PYTHON
