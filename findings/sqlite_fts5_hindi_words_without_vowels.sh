#!/usr/bin/env bash
# Surprise: full-text search of Hindi compares consonants only: the vowel signs that are part of a word separate words, so
#   that din (day), dan (donation) and den (debt) are the same two pieces, and a search for one finds all three with one
#   score. Tamil and Bengali are cut in the same way.
# Versions: SQLite 3.54.1 (apsw 3.54.1.0), table fts5 with its default tokenizer unicode61.
# Users: tokenize = "unicode61 categories 'L* N* Co M*'" when the table is created; look at the terms with fts5vocab.
# Source: unicode61 takes letters and numbers (L* N* Co) as parts of a word; vowel signs are marks (Mc, Mn). Its
#   documentation says that white space and punctuation separate words, and all else is part of one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'apsw==3.54.1.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import apsw

print("apsw", apsw.apsw_version(), "SQLite", apsw.sqlite_lib_version())
print("guess: a search for a word finds the texts with this word")
day, donation, debt = "\u0926\u093f\u0928", "\u0926\u093e\u0928", "\u0926\u0947\u0928"
seen = {}
for name, options in (("default", ""), ("marks", ", tokenize = \"unicode61 categories 'L* N* Co M*'\"")):
    database = apsw.Connection(":memory:")
    database.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text{options})")
    database.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(texts, row)")
    database.executemany("INSERT INTO texts VALUES (?)", [(f"{word} 1",) for word in (donation, debt, day)] + [("2",), ("3",)])
    found = list(database.execute("SELECT text, rank FROM texts WHERE texts MATCH ? ORDER BY rank", (day,)))
    seen[name] = [text.split()[0] for text, _ in found]
    terms = [term for (term,) in database.execute("SELECT term FROM terms") if not term.isdecimal()]
    print("seen:", name, seen[name], "scores", [round(rank, 9) for _, rank in found], "terms", terms)
    assert len({rank for _, rank in found}) == 1
assert seen == {"default": [donation, debt, day], "marks": [day]}
words = "\u0ba8\u0bbe\u0b9f\u0bc1", "\u09a6\u09bf\u09a8"
database = apsw.Connection(":memory:")
database.execute("CREATE VIRTUAL TABLE texts USING fts5(text)")
database.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(texts, row)")
database.executemany("INSERT INTO texts VALUES (?)", [(word,) for word in words])
terms = {term for (term,) in database.execute("SELECT term FROM terms")}
print("seen: Tamil and Bengali words", words, "terms", sorted(terms))
assert terms == {words[0][0], words[0][2], words[1][0], words[1][2]}
PYTHON
