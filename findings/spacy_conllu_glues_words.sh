#!/usr/bin/env bash
# Surprise: spacy convert reads "Il vient du marché." of a CoNLL-U file as "Il vient dele marché.": a contraction is
#   replaced by its parts, and these are written without a blank. Its line "# text =" is not looked at. French, Italian,
#   Spanish, Portuguese, German, Arabic and Hebrew treebanks are full of such words.
# Versions: spacy 3.8.18.
# Users: pass --merge-subtokens (-m), and compare the texts of the converted file with the lines "# text =".
# Source: lines with a range (3-4) are left out, and their SpaceAfter=No is given to the words in them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'spacy==3.8.18'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from spacy.training.converters import conllu_to_docs

print("spacy", version("spacy"))
print("guess: the text of the converted document is that of the treebank, or at least its words with blanks between them")
words = [
    ("1", "Il", "il", "PRON", "2", "nsubj", "_"),
    ("2", "vient", "venir", "VERB", "0", "root", "_"),
    ("3-4", "du", "_", "_", "_", "_", "_"),
    ("3", "de", "de", "ADP", "5", "case", "_"),
    ("4", "le", "le", "DET", "5", "det", "_"),
    ("5", "marché", "marché", "NOUN", "2", "obl", "SpaceAfter=No"),
    ("6", ".", ".", "PUNCT", "2", "punct", "_"),
]
lines = ["\t".join([number, form, lemma, tag, "_", "_", head, relation, "_", misc]) for number, form, lemma, tag, head, relation, misc in words]
treebank = "\n".join(["# sent_id = 1", "# text = Il vient du marché.", *lines, "", ""])
plain, merged = (
    [document.text.strip() for document in conllu_to_docs(treebank, n_sents=1, merge_subtokens=merge, no_print=True)]
    for merge in (False, True)
)
print("seen: by default", plain, "with merge_subtokens", merged)
assert plain == ["Il vient dele marché."] and merged == ["Il vient du marché."]
PYTHON
