#!/usr/bin/env bash
# Surprise: the best score of a column with a NaN is a number by max() and arg_max(), which pass over it, and NaN by
#   top_k(1), by sort(descending=True).head(1) and by rank; filter(score > 0.5) keeps the NaN. A model that diverged is
#   last in one table and first in another.
# Versions: polars 2.1.0.
# Users: call fill_nan(None) where scores come in: missing values are last in every one of these.
# Source: comparisons take NaN for greater than every number, aggregations leave it out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'polars==2.1.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import polars

print("polars", polars.__version__)
print("guess: the greatest value is the first one in descending order")
runs = polars.DataFrame({"run": ["diverged", "good", "fair"], "score": [float("nan"), 0.9, 0.4]})


def best(runs: polars.DataFrame) -> dict[str, list[str]]:
    """Return the best run, or the good ones, by each way to ask for them."""
    score = polars.col("score")
    return {
        "arg_max": [runs["run"][runs["score"].arg_max()]],
        "max": runs.filter(score == score.max())["run"].to_list(),
        "top_k": runs.top_k(1, by="score")["run"].to_list(),
        "sort": runs.sort("score", descending=True, nulls_last=True)["run"].to_list()[:1],
        "rank": runs.filter(score.rank(descending=True) == 1)["run"].to_list(),
        "above 0.5": runs.filter(score > 0.5)["run"].to_list(),
    }


seen, filled = best(runs), best(runs.with_columns(polars.col("score").fill_nan(None)))
print("seen:", seen, "after fill_nan(None)", filled)
assert seen["arg_max"] == seen["max"] == ["good"] and seen["top_k"] == seen["sort"] == seen["rank"] == ["diverged"]
assert seen["above 0.5"] == ["diverged", "good"] and set(map(tuple, filled.values())) == {("good",)}
PYTHON
