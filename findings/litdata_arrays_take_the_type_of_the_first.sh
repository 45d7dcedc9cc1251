#!/usr/bin/env bash
# Surprise: an array of one dimension is read in the type that the first sample had: [0.5, 0.25] in single precision behind
#   one in half precision comes back as [0, 1.75, 0, 1.625], and behind whole numbers as two numbers above 10**18. The label
#   0 behind the label True is True. Nothing is said.
# Versions: litdata 0.2.76, torch 2.13.0, numpy 2.4.6.
# Users: cast every field in the function that optimize calls (numpy.float32(...), int(label)), and compare some samples with
#   what was given. Arrays of two dimensions carry their type.
# Source: the format of the first sample is written into the index; arrays of one dimension and plain numbers have no header.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'litdata==0.2.76' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
cat > run.py <<'PYTHON'
from importlib.metadata import version

import litdata
import numpy

HALF, SINGLE = numpy.array([1, 2], numpy.float16), numpy.array([0.5, 0.25], numpy.float32)
CASES = {
    "half_and_single": [HALF, SINGLE],
    "two_dimensions": [HALF[None], SINGLE[None]],
    "whole_and_double": [numpy.array([1, 2]), numpy.array([0.5, 0.25])],
    "labels": [True, 0],
}


def sample(item):
    """Return a sample; litdata calls this in another process."""
    return {"x": CASES[item[0]][item[1]]}


def main():
    """Write two samples of each case and look at the second one."""
    print("litdata", version("litdata"))
    print("guess: each array comes back as it was given, or a change of type is refused")
    seen = {}
    for case in CASES:
        litdata.optimize(sample, [(case, 0), (case, 1)], case, num_workers=1, chunk_size=10)
        seen[case] = litdata.StreamingDataset(case)[1]["x"]
    print("seen:", seen)
    assert seen["half_and_single"].tolist() == [0, 1.75, 0, 1.625]
    assert seen["whole_and_double"].tolist() == [4602678819172646912, 4598175219545276416]
    assert seen["two_dimensions"].tolist() == [[0.5, 0.25]] and seen["two_dimensions"].dtype == numpy.float32
    assert seen["labels"] is True


if __name__ == "__main__":
    main()
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" HOME="$work" venv/bin/python run.py
