#!/usr/bin/env bash
# Surprise: the population stability index of two samples of the same distribution is far above 0.25, where a shift is
#   called serious: one value of a thousand that lies alone in a bin adds 0.7. Of ten such pairs three alarm, with up to
#   1.42; the same index with a small share for empty bins is below 0.05 for each.
# Versions: frouros 0.9.0.
# Users: compute the index with bins of equal counts, or add a half to each count; of frouros take the Jensen-Shannon or the
#   Hellinger distance, for which an empty bin is harmless.
# Source: the share of an empty bin is set to sys.float_info.min, 2.2e-308, whose logarithm is -708.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'frouros==0.9.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from frouros.detectors.data_drift import PSI

print("frouros", version("frouros"))
print("guess: the index of two samples of one distribution is below 0.1")


def smoothed(first, second):
    """Return the index over the same ten bins with a half added to each count."""
    edges = numpy.histogram_bin_edges(numpy.concatenate([first, second]), bins=10)
    one, two = (numpy.histogram(sample, bins=edges)[0] + 0.5 for sample in (first, second))
    one, two = one / one.sum(), two / two.sum()
    return float(numpy.sum((two - one) * numpy.log(two / one)))


indices, controls = [], []
for seed in range(10):
    random = numpy.random.default_rng(seed)
    reference, new = random.normal(size=1000), random.normal(size=1000)
    detector = PSI(num_bins=10)
    detector.fit(X=reference)
    indices.append(round(float(detector.compare(X=new)[0].distance), 2))
    controls.append(round(smoothed(reference, new), 2))
print("seen:", indices, "with a half in each bin:", controls)
assert sum(index > 0.25 for index in indices) == 3 and max(indices) > 1.4
assert max(controls) < 0.05
PYTHON
