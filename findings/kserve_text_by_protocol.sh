#!/usr/bin/env bash
# Surprise: a text is str for a predictor when the request came by REST and bytes when it came by gRPC; as_string() gives an
#   empty list for gRPC's raw form and AttributeError for REST. A fraction in a tensor of type INT64 is cut, 2.7 to 2.
# Versions: kserve 0.21.0, numpy 2.4.6.
# Users: take as_numpy() and decode each element: text if isinstance(text, str) else text.decode(); test both protocols.
# Source: REST data become strings when a request is read; as_string looks only at lists of bytes, not at the raw form.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'kserve==0.21.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

import numpy as np
from kserve import InferInput, InferRequest

print("kserve", version("kserve"), "numpy", np.__version__)
print("guess: as_numpy and as_string do not depend on how the request was sent")


def received(form: str) -> InferInput:
    tensor = InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array(["café"], dtype=object), binary_data=form != "JSON")
    request = InferRequest(model_name="m", infer_inputs=[tensor])
    if form == "gRPC":
        return InferRequest.from_grpc(request.to_grpc()).inputs[0]
    body, header_length = request.to_rest()
    if header_length is None:
        body = json.dumps(body).encode()
        header_length = len(body)
    return InferRequest.from_bytes(body, header_length, "m").inputs[0]


seen = {}
for form in ("JSON", "binary", "gRPC"):
    tensor = received(form)
    try:
        text = tensor.as_string()
    except AttributeError:
        text = "AttributeError"
    seen[form] = (tensor.as_numpy().tolist()[0], text)
cut = InferInput("ids", [2], "INT64", data=[1, 2.7]).as_numpy().tolist()
print("seen: form: (as_numpy, as_string)", seen, "; INT64 of 1 and 2.7:", cut)
assert seen["JSON"] == seen["binary"] == ("café", "AttributeError")
assert seen["gRPC"] == ("café".encode(), []) and cut == [1, 2]
PYTHON
