#!/usr/bin/env bash
# Surprise: a sentence that holds one of a dozen ordinary signs (the flat of B♭, ♬, the integrals ∮ and ∯, ☉) is left
#   out, or loses its beginning: segment() returns fewer characters than it was given, without an error, and so does
#   char_span=True.
# Versions: pysbd 0.3.4.
# Users: compare the joined sentences with the text, and keep the whole paragraph where they differ; papers of music,
#   physics and astronomy are the usual victims.
# Source: the splitter marks places with these signs, turns them into full stops at the end, and then looks for the
#   changed sentence in the text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pysbd==0.3.4'
cd "$work"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pysbd

print("pysbd", version("pysbd"))
print("guess: with clean=False the sentences are pieces of the text, and together the whole of it")
segment = pysbd.Segmenter(language="en", clean=False).segment
spans = pysbd.Segmenter(language="en", clean=False, char_span=True).segment
seen = {}
for sign in "♯♭♬∮∯∫☉½":
    text = f"She wrote it in 1910. The second theme is in {sign} here. It ends softly."
    sentences, found = segment(text), [text[span.start : span.end] for span in spans(text)]
    print("seen:", sign, sentences)
    assert found == sentences
    seen[sign] = "".join(sentences) == text
    if sign in "♭♬∮∯":
        assert sentences == ["She wrote it in 1910. ", "It ends softly."]
assert seen == {"♯": True, "♭": False, "♬": False, "∮": False, "∯": False, "∫": True, "☉": False, "½": True}
PYTHON
