#!/usr/bin/env bash
# Surprise: a validator with a format checker accepts "x" as date-time and as uri, until other packages happen to be
#   installed: the same code refuses it on the machine of a colleague.
# Versions: jsonschema 4.26.0, rfc3339-validator 0.1.4.
# Users: require jsonschema[format-nongpl] where formats count, and test one bad value of each format that you use.
# Source: the checker knows the formats whose package can be imported, and an unknown format is no error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'jsonschema==4.26.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version

check = """
from jsonschema import Draft202012Validator, FormatChecker
print(*(Draft202012Validator({"type": "string", "format": name}, format_checker=FormatChecker()).is_valid("x")
        for name in ("date", "date-time", "uri")))
"""
print("jsonschema", version("jsonschema"))
print("guess: FormatChecker() checks the formats of the standard, or raises an error for those that it cannot check")
seen = [subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()]
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "rfc3339-validator==0.1.4"], check=True)
seen.append(subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split())
print('seen: "x" is valid as date, date-time, uri:', seen[0], "; with rfc3339-validator:", seen[1])
assert seen == [["False", "True", "True"], ["False", "False", "True"]]
PYTHON
