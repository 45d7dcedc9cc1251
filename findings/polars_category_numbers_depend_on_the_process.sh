#!/usr/bin/env bash
# Surprise: the numbers of a categorical column depend on what the process did before: neg and pos are 0 and 1 in a
#   fresh process, and others after any other categorical column was made, so labels taken by to_physical() differ
#   between training and serving.
# Versions: polars 2.1.0.
# Users: use polars.Enum(["neg", "pos"]), whose numbers are those of the list, or map names to numbers yourself.
# Source: all categorical columns of a process share one list of strings, in the order in which they were seen.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'polars==2.1.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import polars

print("polars", polars.__version__)
print("guess: categories of a column are numbered from 0 in their own order")
labels = ["neg", "pos", "neg"]


def numbers(kind) -> list[int]:
    """Return the numbers of a column of the labels."""
    return polars.Series(labels, dtype=kind).to_physical().to_list()


kept = polars.Series(["en", "de"], dtype=polars.Categorical)
after_languages = numbers(polars.Categorical)
enum = numbers(polars.Enum(["neg", "pos"]))
print("seen:", labels, "after a column of languages", after_languages, "as Enum", enum, "languages", kept.to_physical().to_list())
assert after_languages == [2, 3, 2] and enum == [0, 1, 0]
PYTHON
