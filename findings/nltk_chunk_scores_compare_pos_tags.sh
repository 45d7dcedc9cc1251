#!/usr/bin/env bash
# Surprise: a chunk counts as found only if the part-of-speech tags of its words are the same too: entities with the
#   right words and labels have precision and recall 0.0 if the model's tagger calls Berlin NNP and the reference N.
# Versions: nltk 3.10.4 (ChunkScore).
# Users: give both trees the tags of the reference, or compare spans of tree2conlltags without them.
# Source: the chunks that are compared are trees whose leaves are pairs of word and tag.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nltk==3.10.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from nltk.chunk.util import ChunkScore, conlltags2tree

print("nltk", version("nltk"))
print("guess: a chunk is right if its words and its label are")


def scores(tag: str) -> tuple[float, float]:
    """Return precision and recall of the right entities, whose words have a tag."""
    reference = [("Anna", "NNP", "B-PER"), ("saw", "VBD", "O"), ("Berlin", "NNP", "B-LOC")]
    score = ChunkScore()
    score.score(conlltags2tree(reference), conlltags2tree([(word, tag if label != "O" else old, label) for word, old, label in reference]))
    return score.precision(), score.recall()


same, other = scores("NNP"), scores("N")
print("seen: precision and recall with the same tags", same, "with other tags", other)
assert same == (1, 1) and other == (0, 0)
PYTHON
