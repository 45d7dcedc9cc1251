#!/usr/bin/env bash
# Surprise: a LEFT JOIN of texts with their labels gives the texts without a label the label 0 and the name "", not
#   NULL: they count as class 0, and an average of scores includes zeros. COUNT of labels and IS NULL do not find them.
#   DuckDB gives NULL.
# Versions: chdb 4.4.0 (ClickHouse in a Python process), duckdb 2.0.1.
# Users: SETTINGS join_use_nulls = 1 in each query, or an INNER JOIN.
# Source: a column that is not Nullable has a default value, which stands for what is missing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'chdb==4.4.0' 'duckdb==2.0.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

import chdb
import duckdb

print("chdb", version("chdb"), "duckdb", version("duckdb"))
print("guess: a text without a label has the label NULL")
query = """SELECT texts.id AS id, label, name, label IS NULL AS missing
FROM (SELECT 1 AS id UNION ALL SELECT 2) AS texts
LEFT JOIN (SELECT 2 AS id, CAST(3 AS INT) AS label, 'pos' AS name) AS labels ON texts.id = labels.id ORDER BY id"""


def rows(settings: str = "") -> list[list[object]]:
    return [json.loads(line) for line in str(chdb.query(query + settings, "JSONCompactEachRow")).splitlines() if line]


seen, nulls = rows(), rows(" SETTINGS join_use_nulls = 1")
peer = [list(row) for row in duckdb.sql(query).fetchall()]
print("seen: chdb", seen, "with join_use_nulls", nulls, "duckdb", peer)
assert seen == [[1, 0, "", 0], [2, 3, "pos", 0]]
assert nulls == [[1, None, None, 1], [2, 3, "pos", 0]] and peer[0][1:] == [None, None, True]
PYTHON
