#!/usr/bin/env bash
# Surprise: the normaliser of punctuation turns the blank of a number into a decimal sign: "10 000 Euro", with the
#   no-break space that German, French and Russian texts have there, becomes "10,000 Euro", ten in these languages, and
#   "10.000 Euro" for English. Telephone numbers get dots.
# Versions: sacremoses 0.2.0.
# Users: MosesPunctNormalizer(norm_numbers=False), or replace U+00A0 between digits before it; the tokenizers of XLM
#   models in transformers normalise with the default.
# Source: norm_numbers is True by default in sacremoses/normalize.py; only U+00A0 between digits is replaced, an
#   ordinary blank stays.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sacremoses==0.2.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from sacremoses import MosesPunctNormalizer

print("sacremoses", version("sacremoses"))
print("guess: quotation marks, dashes and blanks change, numbers do not")
texts = ["10\u00a0000 Euro", "10 000 Euro", "+49\u00a030\u00a0123456"]
seen = {language: [MosesPunctNormalizer(lang=language).normalize(text) for text in texts] for language in ("en", "de", "fr", "ru")}
kept = [MosesPunctNormalizer(lang="de", norm_numbers=False).normalize(text) for text in texts]
print("seen:", [ascii(text) for text in texts], seen, "with norm_numbers=False", kept)
assert seen["de"] == seen["fr"] == ["10,000 Euro", "10 000 Euro", "+49,30,123456"]
assert seen["en"] == seen["ru"] == ["10.000 Euro", "10 000 Euro", "+49.30.123456"]
assert not any("," in text or "." in text for text in kept)
PYTHON
