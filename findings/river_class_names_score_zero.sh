#!/usr/bin/env bash
# Surprise: precision, recall, F1 and MCC of labels that are names ("pos", "neg") are 0 however good the model is, also
#   with pos_val="pos", which is there to name the positive class; LogLoss is above 30. There is no error, and Accuracy
#   and MacroF1 of the same stream are right. CrossEntropy of a label that the model does not know is 0, the best value.
# Versions: river 0.26.1.
# Users: feed label == "pos" in the place of names to each metric for two classes, or use the macro, micro and weighted
#   ones.
# Source: labels are compared with pos_val (True by default) and counted as true and false, and the counts are then
#   looked up under pos_val.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'river==0.26.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from river import metrics

print("river", version("river"))
print("guess: a stream of right answers has F1 1, or an error asks which class is the positive one")
stream = ["pos", "neg", "pos", "pos", "neg"]
sure = {"pos": {"pos": 0.9, "neg": 0.1}, "neg": {"pos": 0.1, "neg": 0.9}}


def value(metric, truths, answers):
    """Return what the metric says after the whole stream."""
    for truth, answer in zip(truths, answers, strict=True):
        metric.update(truth, answer)
    return round(metric.get(), 4)


binary = (metrics.Precision, metrics.Recall, metrics.F1, metrics.MCC)
names = {kind.__name__: (value(kind(), stream, stream), value(kind(pos_val="pos"), stream, stream)) for kind in binary}
flags = [label == "pos" for label in stream]
right = {kind.__name__: value(kind(), flags, flags) for kind in binary}
others = value(metrics.Accuracy(), stream, stream), value(metrics.MacroF1(), stream, stream)
print("seen: every answer right", names, "of true and false", right, "Accuracy and MacroF1 of names", others)
assert set(names.values()) == {(0, 0)} and set(right.values()) == {1} and others == (1, 1)
probabilities = [sure[label] for label in stream]
loss = value(metrics.LogLoss(), stream, probabilities)
right_loss = value(metrics.LogLoss(), flags, [answer["pos"] for answer in probabilities])
unknown = value(metrics.CrossEntropy(), ["mixed"], [sure["pos"]])
print("seen: LogLoss", loss, "of true and false", right_loss, "CrossEntropy of an unknown label", unknown)
assert loss > 30 and right_loss < 0.2 and unknown == 0
PYTHON
