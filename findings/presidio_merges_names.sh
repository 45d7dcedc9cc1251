#!/usr/bin/env bash
# Surprise: two names with a blank between them become one person: "Anna Bob" is anonymised to one <PERSON>, and an
#   operator that makes pseudonyms is asked about "Anna Bob", who is nobody. With a comma, a tab or a line break they
#   stay two.
# Versions: presidio-anonymizer 2.2.366.
# Users: replace the spans yourself where texts list names (tables, chats, bylines) or pseudonyms have to be the same in
#   all texts; count the items of the result against the spans.
# Source: spans of one type with nothing but blanks between them are merged before the operators run.
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
print("guess: each span that is passed gets a replacement of its own")


def anonymise(text: str) -> tuple[str, list[str]]:
    asked: list[str] = []

    def pseudonym(name: str) -> str:
        asked.append(name)
        return f"<{len(name)}>"

    spans = [RecognizerResult("PERSON", start, start + len(name), 0.9) for name in ("Anna", "Bob") for start in [text.index(name)]]
    answer = AnonymizerEngine().anonymize(text, spans, {"PERSON": OperatorConfig("custom", {"lambda": pseudonym})})
    return answer.text, [name for name in asked if name != "PERSON"]


seen = {text: anonymise(text) for text in ("Anna Bob", "Anna, Bob", "Anna\tBob", "Anna\nBob")}
print("seen:", seen)
assert seen.pop("Anna Bob")[0] == "<8>"
assert all(sorted(answer) == sorted(text.replace("Anna", "<4>").replace("Bob", "<3>")) for text, (answer, _) in seen.items())
PYTHON
