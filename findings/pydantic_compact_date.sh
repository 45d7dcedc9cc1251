#!/usr/bin/env bash
# Surprise: the date-time "20240101" is 23 August 1970: a string of digits is taken for seconds since 1970, and from
#   20000000001 on for milliseconds. Python and ISO 8601 read 1 January 2024.
# Versions: pydantic 2.14.4.
# Users: ask for a pattern or a strict type where clients may send compact dates (file names, partition keys, card
#   metadata); a test with one such string shows it.
# Source: the parser tries numbers first, with a threshold of 2e10 between seconds and milliseconds.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pydantic==2.14.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from datetime import datetime

import pydantic

print("pydantic", pydantic.VERSION)
print("guess: 2024-01-01, as datetime.fromisoformat has it, or an error")
adapter = pydantic.TypeAdapter(datetime)
by_pydantic, by_python = adapter.validate_python("20240101"), datetime.fromisoformat("20240101")
below, above = (adapter.validate_python(value).year for value in (20_000_000_000, 20_000_000_001))
print("seen: pydantic", by_pydantic, "Python", by_python, "; years of 20000000000 and 20000000001:", below, above)
assert (by_pydantic.year, by_pydantic.month, by_pydantic.day) == (1970, 8, 23) and by_python.year == 2024
assert (below, above) == (2603, 1970)
PYTHON
