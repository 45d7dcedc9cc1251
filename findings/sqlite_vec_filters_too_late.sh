#!/usr/bin/env bash
# Surprise: conditions on the primary key are applied after the nearest neighbours are chosen: with "id >= 50" or "id = 50" a
#   search for three of a hundred finds nothing. "id IN (50, 60)" and conditions on other columns are applied before it.
# Versions: sqlite-vec 0.1.9, apsw 3.54.1.0 (its SQLite).
# Users: write id IN (SELECT id FROM ... WHERE id >= 50), or keep a metadata column with the same value to filter by.
# Source: vec0 takes over IN of the primary key and conditions on metadata columns; SQLite checks the rest on k results.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sqlite-vec==0.1.9' 'apsw==3.54.1.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import apsw
import numpy as np
import sqlite_vec

print("apsw", apsw.apsw_version(), "SQLite", apsw.sqlite_lib_version())
print("guess: the nearest three of the rows that meet the condition, however it is written")
database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())
database.execute("CREATE VIRTUAL TABLE texts USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[1], year INTEGER)")
for number in range(100):
    database.execute("INSERT INTO texts VALUES (?, ?, ?)", (number, np.float32([number]).tobytes(), number))
found = {}
for condition in ("id >= 50", "id = 50", "id IN (50, 60)", "id IN (SELECT id FROM texts WHERE id >= 50)", "year >= 50"):
    rows = database.execute(f"SELECT id FROM texts WHERE vector MATCH ? AND k = 3 AND {condition}", (np.float32([0]).tobytes(),))
    found[condition] = [number for (number,) in rows]
    print("seen:", condition, found[condition])
assert list(found.values()) == [[], [], [50, 60], [50, 51, 52], [50, 51, 52]]
PYTHON
