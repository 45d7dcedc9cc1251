#!/usr/bin/env bash
# Surprise: the Python parser renames samples: a counter "ts_queue_latency_microseconds" of a server is reported as
#   "ts_queue_latency_microseconds_total", and the family of "requests_total" is called "requests".
# Versions: prometheus-client 0.26.0.
# Users: TorchServe and other servers that are older than the naming rule write counters without "_total": look samples up
#   by both names, or read the lines yourself. Prometheus itself keeps the name that was sent.
# Source: the parser maps the text format onto OpenMetrics, where a counter's sample must end in _total.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'prometheus-client==0.26.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from prometheus_client.parser import text_string_to_metric_families

print("prometheus-client", version("prometheus-client"))
print("guess: samples have the names that stand in the text")
text = "# TYPE ts_queue_latency_microseconds counter\nts_queue_latency_microseconds 3\n"
text += "# TYPE requests_total counter\nrequests_total 4\n"
seen = [(family.name, [sample.name for sample in family.samples]) for family in text_string_to_metric_families(text)]
print("seen:", seen)
assert seen == [
    ("ts_queue_latency_microseconds", ["ts_queue_latency_microseconds_total"]),
    ("requests", ["requests_total"]),
]
PYTHON
