#!/usr/bin/env bash
# Surprise: what a model finds in a text whose reference has no entities does not count: a Doc for which ents was never
#   set is taken for one without annotation, so false entities in it leave the precision at 1.0. With ents = [] they
#   count.
# Versions: spacy 3.8.18 (Scorer; nlp.evaluate and spacy evaluate use it).
# Users: set doc.ents = [] for every text that was looked at and has no entity, and "entities": [] in
#   Example.from_dict.
# Source: a token without any IOB tag is unknown, not outside of an entity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'spacy==3.8.18'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import spacy
from spacy.scorer import Scorer
from spacy.tokens import Span
from spacy.training import Example

print("spacy", spacy.__version__)
print("guess: an entity where the reference has none lowers the precision")
nlp = spacy.blank("en")


def scores(empty) -> tuple[float, float]:
    """Return precision and recall of a model that is right in one text and finds an entity too many in another."""
    examples = []
    for text, entities in (("Anna lives here", [(0, 1)]), ("nothing to see", [])):
        reference, predicted = nlp.make_doc(text), nlp.make_doc(text)
        if entities or empty:
            reference.ents = [Span(reference, start, end, label="PER") for start, end in entities]
        predicted.ents = [Span(predicted, 0, 1, label="PER")]
        examples.append(Example(predicted, reference))
    values = Scorer().score(examples)
    return values["ents_p"], values["ents_r"]


unset, empty = scores(empty=False), scores(empty=True)
print("seen: precision and recall with ents never set", unset, "with ents = []", empty)
assert unset == (1, 1) and empty == (0.5, 1)
PYTHON
