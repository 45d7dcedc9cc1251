#!/usr/bin/env bash
# Surprise: the numbers of a dictionary column differ between the row groups of one file: neg is 0 in the first and pos
#   is 0 in the next, also where the schema asks for a dictionary. A loop over batches that takes .indices as labels
#   mixes the classes.
# Versions: pyarrow 26.0.1 (read_table and iter_batches with read_dictionary, pyarrow.csv with auto_dict_encode).
# Users: call unify_dictionaries() on the table, or look each batch's numbers up in its own dictionary; for labels
#   store the numbers themselves.
# Source: each row group and each block of a CSV file gets a dictionary of its own, in the order in which its values
#   come.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pyarrow==26.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import pyarrow
from pyarrow import parquet

print("pyarrow", pyarrow.__version__)
print("guess: one column has one dictionary, so that a number means one label")
labels = ["neg", "pos", "pos", "neg", "neu", "pos"]
parquet.write_table(pyarrow.table({"label": labels}), "labels.parquet", row_group_size=2)
file = parquet.ParquetFile("labels.parquet", read_dictionary=["label"])
batches = [batch.column(0) for batch in file.iter_batches(batch_size=2)]
table = parquet.read_table("labels.parquet", schema=pyarrow.schema([("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))]))


def numbers(chunks) -> list[int]:
    """Return the numbers of all chunks, one after another."""
    return [number for chunk in chunks for number in chunk.indices.to_pylist()]


by_batch, by_table, unified = numbers(batches), numbers(table["label"].chunks), numbers(table.unify_dictionaries()["label"].chunks)
print("seen:", labels, "by batch", by_batch, "of a table", by_table, "after unify_dictionaries", unified)
assert by_batch == by_table == [0, 1, 0, 1, 0, 1] and unified == [0, 1, 1, 0, 2, 1]
PYTHON
