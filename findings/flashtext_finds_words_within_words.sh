#!/usr/bin/env bash
# Surprise: a word ends for flashtext at every letter that is not English: "Ber" is found in "Berührung", "Fran" in "François",
#   and "кот" (cat) in "который" (which), so a list of names labels parts of other words. Spans after a capital İ point one
#   character too far.
# Versions: flashtext 2.7.
# Users: call set_non_word_boundaries with every letter of the texts, as below, or search with a regular expression and \b;
#   compare text[start:end] with the name before it becomes a label.
# Source: the letters of a word are string.digits, string.ascii_letters and _; the text is lowered as a whole, and İ becomes
#   two characters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'flashtext==2.7'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import re
from importlib.metadata import version

from flashtext import KeywordProcessor

print("flashtext", version("flashtext"))
print("guess: a name is found where it stands as a word of its own")
names = ["Ber", "Fran", "кот", "Berlin"]
texts = ["Eine Berührung", "François", "который час", "İzmir, Berlin"]


def spans(letters=None):
    """Return what is found in each text."""
    processor = KeywordProcessor()
    processor.add_keywords_from_list(names)
    if letters:
        processor.set_non_word_boundaries(letters)
    return [[text[start:end] for _, start, end in processor.extract_keywords(text, span_info=True)] for text in texts]


found = spans()
with_letters = spans(set("_0123456789") | {letter for text in texts for letter in text.lower() + text if letter.isalpha()})
pattern = re.compile(rf"\b({'|'.join(names)})\b")
words = [pattern.findall(text) for text in texts]
print("seen:", found, "with all letters:", with_letters, "regular expression:", words)
assert found == [["Ber"], ["Fran"], ["кот"], ["erlin"]]
assert with_letters[:3] == words[:3] == [[], [], []] and words[3] == ["Berlin"]
PYTHON
