#!/usr/bin/env bash
# Surprise: a perfect prediction has a macro F1 of 0.67 in keras and pytorch-ignite if one class of three does not
#   occur in the data, and of 1.0 in torchmetrics and scikit-learn: the first count the missing class as 0, the others
#   leave it out.
# Versions: keras 3.15.1, pytorch-ignite 0.5.5, torchmetrics 1.9.0, scikit-learn 1.9.1, torch 2.13.0.
# Users: compute the macro F1 of all libraries from the F1 of each class (average=None), over the classes that occur,
#   and say so beside the number.
# Source: precision and recall without any text are 0 / 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'keras==3.15.1' 'pytorch-ignite==0.5.5' 'torchmetrics==1.9.0' 'scikit-learn==1.9.1' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os
import warnings

os.environ["KERAS_BACKEND"] = "torch"
import ignite
import keras
import sklearn
import torch
import torchmetrics
from ignite.engine import Engine
from ignite.metrics import Fbeta
from sklearn.metrics import f1_score

print("keras", keras.__version__, "pytorch-ignite", ignite.__version__, "torchmetrics", torchmetrics.__version__, "scikit-learn", sklearn.__version__, "torch", torch.__version__)
print("guess: the macro F1 of a perfect prediction is 1")
warnings.simplefilter("ignore")
labels = torch.tensor([0, 0, 1])
scores = torch.nn.functional.one_hot(labels, 3).float()
metric = keras.metrics.F1Score(average="macro")
metric.update_state(scores, scores)
engine = Engine(lambda _, batch: batch)
Fbeta(1.0).attach(engine, "f1")
seen = {
    "keras": float(metric.result()),
    "ignite": engine.run([(scores, labels)]).metrics["f1"],
    "torchmetrics": torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")(scores, labels).item(),
    "sklearn": f1_score(labels, labels, average="macro"),
}
seen = {name: round(value, 2) for name, value in seen.items()}
print("seen:", seen)
assert seen == {"keras": 0.67, "ignite": 0.67, "torchmetrics": 1, "sklearn": 1}
PYTHON
