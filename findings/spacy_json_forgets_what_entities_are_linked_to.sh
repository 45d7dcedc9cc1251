#!/usr/bin/env bash
# Surprise: Doc.to_json leaves out what an entity is linked to and its id: kb_id "Q1" and span_id of doc.ents are empty
#   after from_json, where spans of doc.spans keep the kb_id and lose the id. DocBin and to_bytes keep both.
# Versions: spacy 3.8.18.
# Users: store linked entities with DocBin or to_bytes, or write kb_id_ and id_ beside start and end yourself.
# Source: an entity is written as start, end and label.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'spacy==3.8.18'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import spacy
from spacy.tokens import Doc, DocBin, Span

print("spacy", spacy.__version__)
print("guess: a document that is written as JSON and read again has what it had, as one from DocBin")
nlp = spacy.blank("en")
doc = nlp("Anna left Berlin")
doc.ents = [Span(doc, 2, 3, label="PLACE", kb_id="Q64", span_id="e1")]
doc.spans["places"] = [Span(doc, 2, 3, label="PLACE", kb_id="Q64", span_id="s1")]
copies = {
    "JSON": Doc(nlp.vocab).from_json(doc.to_json()),
    "bytes": Doc(nlp.vocab).from_bytes(doc.to_bytes()),
    "DocBin": next(iter(DocBin(docs=[doc]).get_docs(nlp.vocab))),
}
seen = {name: [(span.text, span.kb_id_, span.id_) for span in (copy.ents[0], copy.spans["places"][0])] for name, copy in copies.items()}
print("seen:", seen)
assert seen["JSON"] == [("Berlin", "", ""), ("Berlin", "Q64", "")]
assert seen["bytes"] == seen["DocBin"] == [("Berlin", "Q64", "e1"), ("Berlin", "Q64", "s1")]
PYTHON
