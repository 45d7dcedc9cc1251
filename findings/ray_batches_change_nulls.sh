#!/usr/bin/env bash
# Surprise: map_batches hands out a null as NaN: one null turns a batch's column of ids into floats, which changes large
#   ids, and a block whose texts are all null becomes numbers. map keeps None and the exact ids.
# Versions: ray 2.60.0.
# Users: use batch_format="pyarrow" where nulls or ids matter, or send ids as strings.
# Source: the default batch format is numpy, whose integers and fixed types have no null.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ray[data]==2.60.0' 'pyarrow==26.0.1' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os
from importlib.metadata import version

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import ray

print("ray", version("ray"))
print("guess: a function that returns its batch changes nothing")
ray.init(num_cpus=1, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{"id": 9007199254740993, "text": None}, {"id": None, "text": None}]
dataset = ray.data.from_items(rows, override_num_blocks=1)
types = dataset.map_batches(lambda batch: {"types": [f"{batch['id'].dtype} {batch['text'].dtype}"]}).take_all()
batches = dataset.map_batches(lambda batch: batch).take_all()
by_rows = dataset.map(lambda row: row).take_all()
exact = dataset.map_batches(lambda batch: batch, batch_format="pyarrow").take_all()
ray.shutdown()
print("seen: types in a batch", types, "; after map_batches", batches, "; after map", by_rows, "; by pyarrow", exact)
assert batches[0]["id"] == 9007199254740992 and batches[0]["text"] != batches[0]["text"]
assert by_rows == exact == rows
PYTHON
