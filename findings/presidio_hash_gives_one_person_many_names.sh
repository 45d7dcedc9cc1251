#!/usr/bin/env bash
# Surprise: the operator hash gives the same name another hash at each place, also within one text: "Anna met Anna" has
#   two people, and records of one person cannot be joined or counted. With a salt of one's own they are equal. A
#   replacement by the empty text is not one: new_value="" gives "<PERSON>".
# Versions: presidio-anonymizer 2.2.366.
# Users: pass a secret salt of at least 16 bytes, the same for all texts that belong together; use redact to leave names
#   out.
# Source: without a salt each hash draws a random one, and an empty new_value counts as none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'presidio-anonymizer==2.2.366'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import OperatorConfig, RecognizerResult

print("presidio-anonymizer", version("presidio-anonymizer"))
print("guess: a hash of the same name is the same hash")
people = [RecognizerResult("PERSON", 0, 4, 1.0), RecognizerResult("PERSON", 9, 13, 1.0)]


def anonymized(operator, **settings):
    """Return the two names of "Anna met Anna" after the operator."""
    text = AnonymizerEngine().anonymize("Anna met Anna", people, {"PERSON": OperatorConfig(operator, settings)}).text
    return text.split(" met ")


plain, again = anonymized("hash"), anonymized("hash")
salted, salted_again = anonymized("hash", salt=b"sixteen bytes or"), anonymized("hash", salt=b"sixteen bytes or")
empty, redacted = anonymized("replace", new_value=""), anonymized("redact")
print("seen: without a salt", plain, again, "with one", salted, salted_again, "empty", empty, "redacted", redacted)
assert len({*plain, *again}) == 4 and len({*salted, *salted_again}) == 1
assert empty == ["<PERSON>", "<PERSON>"] and redacted == ["", ""]
PYTHON
