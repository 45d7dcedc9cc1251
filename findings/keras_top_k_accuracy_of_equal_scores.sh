#!/usr/bin/env bash
# Surprise: top-k accuracy is 1.0 for a model that gives all of 1000 classes the same score, with k=1 too, where the
#   plain accuracy of the same scores is 0; rounded or saturated scores are counted as hits in the same way.
# Versions: keras 3.15.1 with the backend torch 2.13.0 (SparseTopKCategoricalAccuracy and TopKCategoricalAccuracy).
# Users: compare the metric for k=1 with SparseCategoricalAccuracy: where they differ there are ties. Pass logits in
#   float32, not rounded probabilities.
# Source: every class counts whose score is not below the k-th greatest.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'keras==3.15.1' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy
import torch

print("keras", keras.__version__, "torch", torch.__version__)
print("guess: top-1 accuracy is accuracy, and k classes count as the top k")
answers = numpy.arange(1, 101)


def accuracy(metric, scores: numpy.ndarray) -> float:
    """Return the value of a metric for the scores."""
    metric.update_state(answers, scores)
    return float(metric.result())


equal = numpy.full((100, 1000), 0.5, dtype=numpy.float32)
distinct = equal + numpy.linspace(0.1, 0, 1000, dtype=numpy.float32)
seen = {
    name: (accuracy(keras.metrics.SparseTopKCategoricalAccuracy(k=1), scores), accuracy(keras.metrics.SparseCategoricalAccuracy(), scores))
    for name, scores in (("equal scores", equal), ("distinct scores", distinct))
}
print("seen: top-1 and plain accuracy", seen)
assert seen == {"equal scores": (1, 0), "distinct scores": (0, 0)}
PYTHON
