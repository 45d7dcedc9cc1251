#!/usr/bin/env bash
# Surprise: a TfidfVectorizer is converted with another rule for words: every letter outside of A-Z ends one, so words
#   with umlauts, accents, Cyrillic or Greek letters are not found, and the probabilities of the ONNX model differ.
#   There is no warning.
# Versions: skl2onnx 1.20.0, scikit-learn 1.9.1, onnxruntime 1.32.0.
# Users: give the pattern yourself, options={id(vectorizer): {"tokenexp": r"[\p{L}\p{N}_]+"}}, and compare
#   probabilities over texts of your language before serving.
# Source: the converter replaces the default token_pattern, \b\w\w+\b in Unicode, by [a-zA-Z0-9_]+.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'skl2onnx==1.20.0' 'scikit-learn==1.9.1' 'onnx==1.23.2' 'onnxruntime==1.32.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import onnxruntime
import skl2onnx
import sklearn
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

print("skl2onnx", skl2onnx.__version__, "scikit-learn", sklearn.__version__, "onnxruntime", onnxruntime.__version__)
print("guess: the probabilities are the same for every text")
texts = ["größe passt nicht", "größe ist falsch", "lieferung kam schnell", "lieferung war gut"]
pipeline = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(texts, [0, 0, 1, 1])
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    model = skl2onnx.to_onnx(pipeline, initial_types=[("text", StringTensorType([None, 1]))], options={"zipmap": False})
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
for text, same in (("lieferung", True), ("größe", False)):
    converted = session.run(None, {"text": np.array([[text]])})[1][0]
    original = pipeline.predict_proba([text])[0]
    print("seen:", text, "scikit-learn", original.round(3).tolist(), "ONNX", converted.round(3).tolist())
    assert np.allclose(converted, original, atol=1e-5) is same
pattern = next(a.s for node in model.graph.node if node.op_type == "Tokenizer" for a in node.attribute if a.name == "tokenexp")
assert pattern == b"[a-zA-Z0-9_]+", pattern
PYTHON
