#!/usr/bin/env bash
# Surprise: a numpy array in the byte order of a network or of Java (dtype ">f4", ">i8") is packed as if it were in that of
#   the machine: 0.1 becomes -429492128, and the id 1 becomes 72057594037927936. Nothing is said. orjson, from which it
#   comes, refuses such arrays; msgpack of tolist() is right.
# Versions: ormsgpack 1.13.1, orjson 3.13.0, numpy 2.4.6.
# Users: array.astype(array.dtype.newbyteorder("=")) before packing arrays that were read from files or sockets.
# Source: OPT_SERIALIZE_NUMPY reads the memory of the array by the kind and size of its type, without the byte order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ormsgpack==1.13.1' 'orjson==3.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import orjson
import ormsgpack

print("ormsgpack", version("ormsgpack"), "orjson", version("orjson"), "numpy", np.__version__, "machine", sys.byteorder)
print("guess: the numbers that the array holds, or an error")
seen = []
for array in (np.array([0.1, 1], ">f4"), np.array([1, 2], ">i8"), np.frombuffer(bytes.fromhex("3f80000040000000"), ">f4")):
    packed = ormsgpack.unpackb(ormsgpack.packb(array, option=ormsgpack.OPT_SERIALIZE_NUMPY))
    native = array.astype(array.dtype.newbyteorder("="))
    right = ormsgpack.unpackb(ormsgpack.packb(native, option=ormsgpack.OPT_SERIALIZE_NUMPY))
    try:
        refused = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        refused = str(error)
    print("seen:", array.tolist(), "is", packed, "in the order of the machine", right, "orjson:", refused)
    assert right == array.tolist() and packed == array.view(native.dtype).tolist() != right and "endian" in refused
    seen.append(packed)
assert seen[1] == [1 << 56, 2 << 56]
PYTHON
