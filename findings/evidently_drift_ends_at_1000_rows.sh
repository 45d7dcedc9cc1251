#!/usr/bin/env bash
# Surprise: a share of "pos" that moves from 50 % to 56 % is drift in a reference of 1000 rows and none in one of 1001
#   or 100,000: from 1001 rows on another test is used, whose fixed threshold knows no number of rows.
# Versions: evidently 0.7.23, pandas 2.3.3.
# Users: name the test (cat_method="z", num_method="ks") and its threshold, so that a larger sample finds smaller
#   changes.
# Source: up to 1000 rows p values below 0.05 count, above it a Jensen-Shannon (numbers: Wasserstein) distance of 0.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'evidently==0.7.23' 'pandas==2.3.3'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
import pandas
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset

print("evidently", version("evidently"), "pandas", version("pandas"))
print("guess: what is drift in 1000 rows is drift in more rows of the same")


def drift(n_rows: int, **options) -> tuple[bool, str]:
    before, now = (
        pandas.DataFrame({"label": ["pos"] * round(n_rows * share) + ["neg"] * (n_rows - round(n_rows * share))})
        for share in (0.5, 0.56)
    )
    report = Report([DataDriftPreset(columns=["label"], **options)]).run(Dataset.from_pandas(now), Dataset.from_pandas(before))
    count, column = report.dict()["metrics"]
    return count["value"]["count"] == 1, f"{column['metric_name']} {column['value']:.3g}"


seen = {n_rows: drift(n_rows) for n_rows in (1000, 1001, 100_000)}
named = {n_rows: drift(n_rows, cat_method="z") for n_rows in (1000, 1001, 100_000)}
print("seen:", seen, "with cat_method", named)
assert [found for found, _ in seen.values()] == [True, False, False] and all(found for found, _ in named.values())
PYTHON
