#!/usr/bin/env bash
# Surprise: Example.from_dict takes the tags B-PER, O, B-LOC of the usual scheme IOB2 and makes a text without entities
#   of them, without a warning: all four tokens of "Anna Lee saw Berlin" with B-PER, I-PER, O, B-LOC are outside.
# Versions: spacy 3.8.18.
# Users: pass iob_to_biluo(tags) of spacy.training, and compare the number of entities with the number of tags that
#   begin with B-.
# Source: lists of tags are read as BILUO, where a single token is U- and a last one L-.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'spacy==3.8.18'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings

import spacy
from spacy.training import Example, iob_to_biluo

print("spacy", spacy.__version__)
print("guess: tags of another scheme are understood or refused")
nlp = spacy.blank("en")
words, tags = "Anna Lee saw Berlin", ["B-PER", "I-PER", "O", "B-LOC"]


def entities(text: str, tags: list[str]) -> list[str]:
    """Return the entities of the reference."""
    return [entity.text for entity in Example.from_dict(nlp.make_doc(text), {"entities": tags}).reference.ents]


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    seen = {text: entities(text, given) for text, given in (("Anna saw Berlin", ["B-PER", "O", "B-LOC"]), (words, tags))}
    right = entities(words, iob_to_biluo(tags))
print("seen:", seen, "warnings", len(caught), "by iob_to_biluo", right)
assert list(seen.values()) == [[], []] and not caught and right == ["Anna Lee", "Berlin"]
PYTHON
