#!/usr/bin/env bash
# Surprise: a boolean field of a Croissant dataset is true for every string: "false", "no" and "0" of a CSV file become
#   True. An integer field turns 2.7 into 2, and a date field reads 01/02/2024 as 2 January and 13/02/2024 as 13
#   February.
# Versions: mlcroissant 1.1.1, pandas 3.1.1.
# Users: declare flags and dates as sc:Text and convert them yourself; compare some records with the file.
# Source: each value is converted by itself: by Python's bool() and int(), and by pandas' to_datetime, which guesses
#   the order of day and month.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'mlcroissant==1.1.1' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import hashlib
import json
import logging
from importlib.metadata import version
from pathlib import Path

from mlcroissant import DataType, Dataset, Extract, Field, FileObject, Metadata, RecordSet, Source

print("mlcroissant", version("mlcroissant"), "pandas", version("pandas"))
print("guess: what is no value of the declared type is refused, and \"no\" is not yes")
logging.disable()
rows = [("true", "2", "01/02/2024"), ("no", "3", "13/02/2024"), ("0", "2.7", "2024-03-01")]
kinds = {"spam": DataType.BOOL, "stars": DataType.INTEGER, "day": DataType.DATE}
data = Path("texts.csv")
data.write_text(",".join(kinds) + "\n" + "".join(",".join(row) + "\n" for row in rows))
file = FileObject(id="texts.csv", name="texts.csv", content_url="texts.csv", encoding_formats=["text/csv"],
                  sha256=hashlib.sha256(data.read_bytes()).hexdigest())
fields = [
    Field(id=f"rows/{name}", name=name, data_types=[kind], source=Source(file_object="texts.csv", extract=Extract(column=name)))
    for name, kind in kinds.items()
]
metadata = Metadata(name="texts", url="https://example.com", distribution=[file], record_sets=[RecordSet(id="rows", name="rows", fields=fields)])
Path("croissant.json").write_text(json.dumps(metadata.to_json(), default=str))
read = [(row["rows/spam"], row["rows/stars"], str(row["rows/day"])[:10]) for row in Dataset("croissant.json").records("rows")]
print("seen: written", rows, "read", read)
assert read == [(True, 2, "2024-01-02"), (True, 3, "2024-02-13"), (True, 2, "2024-03-01")]
PYTHON
