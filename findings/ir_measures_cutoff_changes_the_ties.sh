#!/usr/bin/env bash
# Surprise: of one ranking of three texts with equal scores RR is 1/3 and RR@10 is 1: with a cutoff another program
#   computes it, and the two put equal scores in opposite orders of their ids. nDCG@10 and AP go with RR. Rounded scores
#   and half precision give ties.
# Versions: ir-measures 0.4.3, pytrec_eval-terrier 0.5.11.
# Users: make scores unequal before evaluating (subtract the rank times a small number), and compare RR@k only with
#   figures of the same provider.
# Source: RR is answered by trec_eval, which ranks the last id first, and RR@k by the provider msmarco.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ir-measures==0.4.3' 'pytrec_eval-terrier==0.5.11' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import ir_measures
from ir_measures import AP, RR, nDCG

print("ir-measures", version("ir-measures"), "pytrec_eval-terrier", version("pytrec_eval-terrier"))
print("guess: a ranking of three texts has the same reciprocal rank with a cutoff of 10 and without one")
relevant = [ir_measures.Qrel("q", "a", 1)]
seen = {}
for name, scores in {"ties": (1.0, 1.0, 1.0), "none": (0.9, 1.0, 0.8)}.items():
    run = [ir_measures.ScoredDoc("q", text, score) for text, score in zip("abc", scores, strict=True)]
    values = ir_measures.calc_aggregate([RR, RR @ 10, AP, nDCG @ 10], relevant, run)
    seen[name] = {str(measure): round(value, 3) for measure, value in sorted(values.items(), key=str)}
    print("seen:", name, seen[name])
assert seen["ties"] == {"AP": 0.333, "RR": 0.333, "RR@10": 1, "nDCG@10": 0.5}
assert seen["none"]["RR"] == seen["none"]["RR@10"] == 0.5
PYTHON
