#!/usr/bin/env bash
# Surprise: with pytest 9.2, `--dist loadgroup` of pytest-xdist 3.8 does nothing: tests of one xdist_group run in several
#   processes, each with session fixtures of its own, without a word.
# Versions: pytest 9.2.0, pytest-xdist 3.8.0
# Users: look at the process of each test (-v) before relying on groups; group by file (--dist loadfile) instead.
# Source: seen by running it; the plugin appends the group to the private attribute that held a test's id, which pytest
#   no longer reads.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -qq --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
cat > "$scratch/test_group.py" << 'END'
import os
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_process(number):
    time.sleep(0.2)
    print("PROCESS", os.environ["PYTEST_XDIST_WORKER"])
END
cd "$scratch"
echo "guess: all eight tests run in one process"
processes=$("$scratch/venv/bin/python" -m pytest -q -n 2 --dist loadgroup -rP test_group.py | grep -o 'PROCESS gw[0-9]*' | sort | uniq -c)
"$scratch/venv/bin/python" -c 'import pytest, xdist; print("pytest", pytest.__version__, "pytest-xdist", xdist.__version__)'
echo "$processes"
[ "$(wc -l <<< "$processes")" -eq 2 ] || { echo "changed: the group stayed in one process"; exit 1; }
echo "seen: the tests of one group ran in two processes"
