#!/usr/bin/env bash
# Surprise: a histogram of seconds, as OpenTelemetry's own conventions ask for, puts every latency below 5 s into one
#   bucket: the median of answers in 20 ms is 2.5 s when read from the buckets, and a slow server looks like a fast one.
#   The unit "s" is not looked at.
# Versions: opentelemetry-sdk 1.45.2, prometheus-client 0.26.0.
# Users: pass explicit_bucket_boundaries_advisory= to create_histogram, or give the provider a View; prometheus-client's
#   own default boundaries are in seconds.
# Source: the default boundaries are 0, 5, 10, 25 to 10,000, whatever the unit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'opentelemetry-sdk==1.45.2' 'prometheus-client==0.26.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Histogram

print("opentelemetry-sdk", version("opentelemetry-sdk"), "prometheus-client", version("prometheus-client"))
print("guess: the default buckets of a histogram with the unit s can tell 20 ms from 900 ms")


def counts(seconds: float, **options) -> dict[float, int]:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("server")
    histogram = meter.create_histogram("http.server.request.duration", unit="s", **options)
    for _ in range(100):
        histogram.record(seconds)
    point = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]
    bounds = (*point.explicit_bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, point.bucket_counts, strict=True) if count}


fast, slow = counts(0.02), counts(0.9)
told = [counts(seconds, explicit_bucket_boundaries_advisory=[0.01, 0.1, 1.0]) for seconds in (0.02, 0.9)]
registry = CollectorRegistry()
histogram = Histogram("seconds", "", registry=registry)
histogram.observe(0.02)
peer = next(s.labels["le"] for s in next(iter(registry.collect())).samples if s.name == "seconds_bucket" and s.value)
print("seen: 20 ms", fast, "900 ms", slow, "; with boundaries", told, "; prometheus-client: 20 ms is at most", peer)
assert fast == slow == {5.0: 100} and told == [{0.1: 100}, {1.0: 100}] and peer == "0.025"
PYTHON
