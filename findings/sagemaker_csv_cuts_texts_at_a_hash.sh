#!/usr/bin/env bash
# Surprise: the CSV decoder of SageMaker's inference toolkit cuts each line at the first #, drops lines that begin with
#   one, and knows no quotes: of "Issue #12 is open" the model gets "Issue", and "good, film" in quotes becomes two
#   columns. The encoder writes no quotes either.
# Versions: sagemaker-inference 1.10.1, numpy 2.4.6.
# Users: send application/json for texts, and compare the number of answers with that of the texts.
# Source: numpy's genfromtxt reads the lines, whose default sign for a comment is #.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sagemaker-inference==1.10.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from sagemaker_inference import decoder, encoder

print("sagemaker-inference", version("sagemaker-inference"), "numpy", numpy.__version__)
print("guess: text/csv is read as CSV: one text for each line, and a comma in quotes is part of the text")
texts = "Issue #12 is open\n#metoo\na plain line"
read = decoder.decode(texts, "text/csv").tolist()
quoted = decoder.decode('"good, film",1\n"bad, film",0', "text/csv").tolist()
written = encoder.encode(numpy.array([["good, film", "pos"]]), "text/csv")
print("seen:", texts.split("\n"), "read", read, "quoted", quoted, "written", repr(written))
assert [text.strip() for text in read] == ["Issue", "a plain line"]
assert [len(row) for row in quoted] == [3, 3] and written == "good, film,pos\n"
PYTHON
