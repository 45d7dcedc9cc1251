#!/usr/bin/env bash
# Surprise: one NaN given to Histogram.observe makes the sum NaN for the rest of the process, and is counted nowhere: the
#   count does not tell that an observation was lost.
# Versions: prometheus-client 0.26.0.
# Users: check values before observe(); rate() of the sum is NaN from then on, while quantiles look healthy.
# Source: the sum is increased first; no bucket's bound is greater than NaN, not even +Inf, and the count is the last bucket's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'prometheus-client==0.26.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import math
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Histogram

print("prometheus-client", version("prometheus-client"))
print("guess: a NaN is refused, or counted in the bucket +Inf")
registry = CollectorRegistry()
histogram = Histogram("score", "Scores", buckets=(0.5, 1), registry=registry)
for value in (0.25, math.nan, 0.25):
    histogram.observe(value)
count, total = registry.get_sample_value("score_count"), registry.get_sample_value("score_sum")
print("seen: after three observations the count is", count, "and the sum", total)
assert count == 2 and math.isnan(total)
PYTHON
