#!/usr/bin/env bash
# Surprise: RMinHash.update counts the letters of a string: the loop over words that is right for datasketch, and
#   update(text), make any two texts with the same letters exact duplicates. With bytes the same loop counts words.
# Versions: rensa 0.5.0, datasketch 2.0.0.
# Users: pass a list of tokens in one call, update(text.split()), never a str; try two different texts with the same
#   letters before a corpus is deduplicated.
# Source: update takes any iterable of tokens, and a str is an iterable of its characters; bytes are one token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'rensa==0.5.0' 'datasketch==2.0.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import datasketch
import rensa

print("rensa", version("rensa"), "datasketch", version("datasketch"))
print("guess: update(word) adds a word, as it does in datasketch")
texts = ["the cat sat on the mat", "tom eats the mocha tan"]


def rensas(add) -> float:
    """Return the similarity of the two texts that rensa estimates."""
    signatures = [rensa.RMinHash(num_perm=128, seed=42) for _ in texts]
    for signature, text in zip(signatures, texts, strict=True):
        add(signature, text)
    return signatures[0].jaccard(signatures[1])


def datasketchs() -> float:
    """Return the similarity of the two texts that datasketch estimates."""
    signatures = [datasketch.MinHash(128) for _ in texts]
    for signature, text in zip(signatures, texts, strict=True):
        for word in text.split():
            signature.update(word.encode())
    return signatures[0].jaccard(signatures[1])


first, second = (set(text.split()) for text in texts)
true = len(first & second) / len(first | second)
seen = {
    "words one by one": rensas(lambda signature, text: [signature.update(word) for word in text.split()]),
    "the text": rensas(lambda signature, text: signature.update(text)),
    "words as bytes one by one": rensas(lambda signature, text: [signature.update(word.encode()) for word in text.split()]),
    "a list of words": rensas(lambda signature, text: signature.update(text.split())),
}
print("seen: true similarity", round(true, 2), "datasketch", datasketchs(), "rensa", seen)
assert seen["words one by one"] == seen["the text"] == 1.0
assert all(estimate < 0.3 for estimate in (true, datasketchs(), seen["words as bytes one by one"], seen["a list of words"]))
PYTHON
