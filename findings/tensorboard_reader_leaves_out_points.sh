#!/usr/bin/env bash
# Surprise: EventAccumulator, with which scripts read what was logged, returns 10,000 of 30,000 values of a scalar,
#   chosen by lot: the best accuracy is not among them, and max() of what was read is another number. Nothing is said.
# Versions: tensorboard 2.21.0.
# Users: pass size_guidance={"scalars": 0}, which keeps all.
# Source: the reader keeps a sample of each tag; the page of TensorBoard shows fewer still (--samples_per_plugin).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tensorboard==2.21.0' 'setuptools==80.10.2'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

print("tensorboard", version("tensorboard"))
print("guess: what was logged is read")
writer = EventFileWriter("run")
for step in range(30_000):
    accuracy = 0.9 if step in (4321, 23456) else 0.5
    writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=[Summary.Value(tag="accuracy", simple_value=accuracy)])))
writer.close()


def read(**options) -> tuple[int, int]:
    reader = EventAccumulator("run", **options)
    reader.Reload()
    values = [round(event.value, 3) for event in reader.Scalars("accuracy")]
    return len(values), values.count(0.9)


seen = {"default": read(), "size_guidance": read(size_guidance={"scalars": 0})}
print("seen: values read, and how many of the two best", seen)
assert seen["default"][0] == 10_000 and seen["size_guidance"] == (30_000, 2)
PYTHON
