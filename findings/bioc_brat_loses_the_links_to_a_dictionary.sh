#!/usr/bin/env bash
# Surprise: reading brat annotations and writing them again loses every line that links an entity to an entry of a
#   dictionary (N1 Reference T1 MESH:D006261), without an error; entities, relations, events, attributes and notes stay.
#   A relation of a PubTator file gets a further column, the word None.
# Versions: bioc 2.1.
# Users: compare the lines of the .ann file before and after; keep links in a file of their own.
# Source: the reader of brat has no case for lines that begin with N; the writer of PubTator writes a fourth column that
#   the reader took for optional.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'bioc==2.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import io
from importlib.metadata import version

from bioc import brat, pubtator

print("bioc", version("bioc"))
print("guess: what was read is written")
lines = [
    "T1\tDisease 0 8\tHeadache",
    "T2\tDrug 14 21\taspirin",
    "N1\tReference T1 MESH:D006261\tHeadache",
    "R1\tTreatedWith Arg1:T1 Arg2:T2",
    "A2\tConfidence T1 high",
    "#1\tAnnotatorNotes T1\tsee guideline",
]
document = brat.load(io.StringIO("Headache then aspirin."), io.StringIO("\n".join(lines) + "\n"))
written = io.StringIO()
brat.dump(document, io.StringIO(), written)
lost = [line for line in lines if line not in written.getvalue().splitlines()]
print("seen: lost", lost)
assert lost == [lines[2]]
text = "1|t|Headache.\n1|a|Aspirin helps.\n1\t0\t8\tHeadache\tDisease\tD006261\n1\tCID\tD001241\tD006261\n\n"
relation = [line for line in pubtator.dumps(pubtator.loads(text)).splitlines() if "CID" in line]
print("seen: PubTator", relation)
assert relation == ["1\tCID\tD001241\tD006261\tNone"]
PYTHON
