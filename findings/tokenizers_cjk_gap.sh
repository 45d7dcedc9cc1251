#!/usr/bin/env bash
# Surprise: the BERT normaliser isolates each Chinese ideograph, but not the 256 of U+2B820 to U+2B91F.
# Versions: tokenizers 0.23.3, which transformers 5 uses for every BERT tokenizer.
# Users: a run of these ideographs (and of those from U+2CEB0 and U+30000 on) stays one word, mostly [UNK]. Compare
#   word counts with the Python code of BERT if your texts hold rare ideographs, as in personal and place names.
# Source: the original BERT code lists the block U+2B820 to U+2CEAF (CJK Extension E); the Rust normaliser's table of
#   ranges begins that block at U+2B920.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'tokenizers==0.23.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import tokenizers
from tokenizers import normalizers

print("tokenizers", tokenizers.__version__)
print("guess: every ideograph of CJK Extension E (U+2B820 to U+2CEAF) is surrounded by blanks")
normalizer = normalizers.BertNormalizer(lowercase=False)
isolated = {code for code in range(0x2B820, 0x2CEB0) if normalizer.normalize_str(f"a{chr(code)}b") != f"a{chr(code)}b"}
missed = [code for code in range(0x2B820, 0x2CEB0) if code not in isolated]
print(f"seen: {len(missed)} ideographs are not isolated, U+{missed[0]:X} to U+{missed[-1]:X}")
later = [f"U+{code:X}" for code in (0x2CEB0, 0x30000) if normalizer.normalize_str(f"a{chr(code)}b") == f"a{chr(code)}b"]
print("seen: later extensions that are not isolated either:", later)
assert missed == list(range(0x2B820, 0x2B920))
assert later == ["U+2CEB0", "U+30000"]
PYTHON
