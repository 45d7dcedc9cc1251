#!/usr/bin/env bash
# Surprise: the current value of a metric is the largest, not the last, of those that share a step and a millisecond: of
#   the losses 0.9, 0.5, 0.1, logged in one batch, a run shows 0.9, and its history lists them by size. An infinite loss
#   is stored as 1.797e308, which a search takes for a number.
# Versions: mlflow-skinny 3.17.2 with SQLite (the store of its server).
# Users: give every value its own step; look at isfinite before logging.
# Source: a value replaces the current one if its (step, timestamp, value) is greater; the database holds no infinity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlflow-skinny==3.17.2' 'sqlalchemy==2.1.9' 'alembic==1.20.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
from importlib.metadata import version

from mlflow import MlflowClient
from mlflow.entities import Metric

logging.disable(logging.CRITICAL)
print("mlflow-skinny", version("mlflow-skinny"))
print("guess: the current value of a metric is the one that was logged last, and inf stays inf")
client = MlflowClient("sqlite:///runs.db")
run = client.create_run(client.create_experiment("losses")).info.run_id
now = 1_700_000_000_000
client.log_batch(run, metrics=[Metric("loss", value, now, 0) for value in (0.9, 0.5, 0.1)])
client.log_batch(run, metrics=[Metric("steps", value, now, step) for step, value in enumerate((0.9, 0.5, 0.1))])
client.log_metric(run, "infinite", float("inf"))
values = client.get_run(run).data.metrics
history = [metric.value for metric in client.get_metric_history(run, "loss")]
print("seen:", values, "history of the loss", history)
assert values == {"loss": 0.9, "steps": 0.1, "infinite": 1.7976931348623157e308}
PYTHON
