#!/usr/bin/env bash
# Surprise: R-precision counts a text as relevant that is relevant to another query only: it reaches 2.0, for a query
#   whose value is 1 and for one without any result, and is NaN for one whose value is 0. There is no error; MAP, nDCG
#   and the reciprocal rank are right.
# Versions: trectools 0.0.50 with pandas 3.1.1.
# Users: compute R-precision with pytrec_eval, or install a pandas below 3 beside trectools.
# Source: from pandas 3 on, groupby(...).apply leaves out the column that it groups by, and texts are then joined with
#   the judgements by their ids alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'trectools==0.0.50' 'pandas==3.1.1' 'numpy==2.4.6' 'pytrec_eval-terrier==0.5.11'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pytrec_eval
from trectools import TrecEval, TrecQrel, TrecRun

print("trectools", version("trectools"), "pandas", version("pandas"))
print("guess: R-precision of trectools is that of trec_eval")
judgements = {"1": {"a": 1}, "2": {"b": 1}, "3": {"a": 1}}
results = {"1": {"a": 2.0, "b": 1.0}, "2": {"a": 2.0, "b": 1.0}}  # right for query 1, wrong for 2, none for 3
with open("judgements", "w") as file:
    file.writelines(f"{query} 0 {text} {grade}\n" for query, texts in judgements.items() for text, grade in texts.items())
with open("results", "w") as file:
    for query, texts in results.items():
        file.writelines(f"{query} Q0 {text} {rank} {score} run\n" for rank, (text, score) in enumerate(texts.items(), 1))
evaluation = TrecEval(TrecRun("results"), TrecQrel("judgements"))
trec = pytrec_eval.RelevanceEvaluator(judgements, {"Rprec", "recip_rank"}).evaluate(results)
seen = evaluation.get_rprec(per_query=True)["RPrec@1000"].to_dict()
ranks = evaluation.get_reciprocal_rank(per_query=True)["recip_rank@1000"].to_dict()
mean = float(evaluation.get_rprec())
print("seen: R-precision", seen, "mean", mean, "trec_eval", {query: values["Rprec"] for query, values in trec.items()})
print("seen: reciprocal rank", ranks, "trec_eval", {query: values["recip_rank"] for query, values in trec.items()})
assert {query: values["Rprec"] for query, values in trec.items()} == {"1": 1, "2": 0}
assert ranks == {query: values["recip_rank"] for query, values in trec.items()} == {"1": 1, "2": 0.5}
assert seen["1"] == seen["3"] == mean == 2 and seen["2"] != seen["2"]
PYTHON
