#!/usr/bin/env bash
# Surprise: the empty text comes first: the cosine similarity of a zero vector is NaN, NaN is the greatest number, and so it
#   leads ORDER BY similarity DESC and passes WHERE similarity > 0.5; the mean is NaN. Distances put it last.
# Versions: duckdb 2.0.1 (array_cosine_similarity and list_cosine_similarity).
# Users: order by array_cosine_distance, or add AND NOT isnan(...); keep zero vectors (empty texts, half precision, unknown
#   words) out of the table.
# Source: the length of the vector divides; SQL's NaN is above every number here, as in PostgreSQL.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'duckdb==2.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import duckdb

print("duckdb", duckdb.__version__)
print("guess: a vector without a direction is like nothing: 0, NULL, or last")
duckdb.execute("CREATE TABLE texts AS SELECT * FROM (VALUES ('empty', [0, 0]::FLOAT[2]), ('near', [1, 0.1]), ('far', [-1, 0])) AS t(text, vector)")


def texts(query: str) -> list[str]:
    return [text for (text,) in duckdb.execute(f"SELECT text FROM texts {query}").fetchall()]


like, distance = "array_cosine_similarity(vector, [1, 0]::FLOAT[2])", "array_cosine_distance(vector, [1, 0]::FLOAT[2])"
lists = "list_cosine_similarity(vector::FLOAT[], [1, 0]::FLOAT[])"
best, best_list, near, close = (
    texts(f"ORDER BY {like} DESC"), texts(f"ORDER BY {lists} DESC"), texts(f"WHERE {like} > 0.5"), texts(f"ORDER BY {distance}")
)
mean = duckdb.execute(f"SELECT avg({like}) FROM texts").fetchone()[0]
print("seen: by similarity", best, "of lists", best_list, "above 0.5", near, "by distance", close, "mean", mean)
assert best == best_list == ["empty", "near", "far"] and near == ["empty", "near"] and close == ["near", "far", "empty"] and mean != mean
PYTHON
