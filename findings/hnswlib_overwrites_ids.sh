#!/usr/bin/env bash
# Surprise: vectors added without ids overwrite those that were added with ids: after ids 2 and 3 the next vector gets the
#   id 2, and the first is gone. No error; the index still counts two.
# Versions: hnswlib 0.8.0, voyager 2.2.3 (takes a free id). pip builds hnswlib with a C++ compiler.
# Users: pass ids in every call of add_items, or in none.
# Source: the next id is the number of vectors, used or not; an id that exists is an update.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'hnswlib==0.8.0' 'voyager==2.2.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import hnswlib
import numpy as np
import voyager

print("hnswlib", version("hnswlib"), "voyager", version("voyager"))
print("guess: a vector without an id gets an id that no other has")
first, second, third = np.array([[3, 4], [0, 2], [9, 9]], np.float32)
index = hnswlib.Index("l2", 2)
index.init_index(10)
index.add_items(np.stack([first, second]), [2, 3])
index.add_items(third[None])
other = voyager.Index(voyager.Space.Euclidean, 2)
for vector, number in ((first, 2), (second, 3), (third, None)):
    other.add_item(vector, number)
print("seen: hnswlib", dict(zip(sorted(index.get_ids_list()), np.asarray(index.get_items(sorted(index.get_ids_list()))).tolist())))
print("      voyager", {number: other.get_vector(number).tolist() for number in sorted(other.ids)})
assert index.element_count == 2 and np.asarray(index.get_items([2])).tolist() == [[9, 9]]
assert len(other) == 3 and other.get_vector(2).tolist() == [3, 4]
PYTHON
