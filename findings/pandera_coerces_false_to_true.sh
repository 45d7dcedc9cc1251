#!/usr/bin/env bash
# Surprise: a schema with coerce=True accepts what is not of its type and changes it: the string "False" becomes True
#   in a bool column, and 2.7 becomes 2 in an int column, with pandas; with Polars 2.7 becomes 2 and "False" is
#   refused.
# Versions: pandera 0.35.0 with pandas 3.1.1 and polars 2.1.0.
# Users: leave coerce out for labels and flags and convert them yourself, with a map of the values that you know.
# Source: the column is cast by pandas' astype, before any check runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pandera==0.35.0' 'pandas==3.1.1' 'polars==2.1.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pandas
import pandera.pandas
import pandera.polars
import polars

print("pandera", version("pandera"), "pandas", pandas.__version__, "polars", polars.__version__)
print("guess: coercion converts what stands for a value of the type, and refuses the rest")
checks = {int: [2.7, 1.0], bool: ["False", "True"]}
seen = {}
for library, module, frame in (("pandas", pandera.pandas, pandas.DataFrame), ("polars", pandera.polars, polars.DataFrame)):
    for kind, values in checks.items():
        schema = module.DataFrameSchema({"label": module.Column(kind, coerce=True)})
        try:
            seen[library, kind.__name__] = list(schema.validate(frame({"label": values}))["label"])
        except (pandera.errors.SchemaError, pandera.errors.SchemaErrors):
            seen[library, kind.__name__] = "refused"
print("seen:", seen)
assert seen == {("pandas", "int"): [2, 1], ("pandas", "bool"): [True, True], ("polars", "int"): [2, 1], ("polars", "bool"): "refused"}
PYTHON
