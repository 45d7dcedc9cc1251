#!/usr/bin/env bash
# Surprise: ray.data.read_text drops lines without text, blanks included, and makes two rows of a line that holds U+2028,
#   U+0085 or a vertical tab: row numbers do not fit the file.
# Versions: ray 2.60.0.
# Users: for results beside texts write JSON lines or Parquet with an id. drop_empty_lines=False keeps blank lines, but
#   nothing keeps a line with such a character whole.
# Source: the reader uses str.splitlines, which knows more line ends than files do, and drops empty lines by default.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ray[data]==2.60.0' 'pyarrow==26.0.1' 'pandas==3.1.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os
from importlib.metadata import version

os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import ray

print("ray", version("ray"))
print("guess: four lines of a file are four rows")
lines = ["one", "", "two\u2028still two", "three"]
with open("texts.txt", "w", encoding="utf-8", newline="") as stream:
    stream.write("".join(f"{line}\n" for line in lines))
ray.init(num_cpus=1, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
ray.data.DataContext.get_current().enable_progress_bars = False
default = [row["text"] for row in ray.data.read_text("texts.txt").take_all()]
kept = [row["text"] for row in ray.data.read_text("texts.txt", drop_empty_lines=False).take_all()]
ray.shutdown()
print("seen:", lines, "become", default, "and with drop_empty_lines=False", kept)
assert default == ["one", "two", "still two", "three"] and kept == ["one", "", "two", "still two", "three"]
PYTHON
