#!/usr/bin/env bash
# Set up, then run every test, and scripts/check.sh beside them. Arguments go to pytest, e.g. scripts/test.sh -k protocol
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    echo "Usage: scripts/test.sh [PYTEST ARGUMENTS]   set-up, then the tests in several processes beside scripts/check.sh"
    exit 0
    ;;
esac
# Tests start some hundred commands: what they import is compiled at the first one.
unset PYTHONDONTWRITEBYTECODE
scripts/setup.sh

# The types of a fresh checkout take one core a minute, the tests wait much of their time: the check takes what they leave.
report=$(mktemp)
nice -n 19 scripts/check.sh > "$report" 2>&1 &
check=$!
trap 'kill "$check" 2> /dev/null || true; rm -f "$report"' EXIT

# A process more than cores, because much of the time is waiting for servers; idle threads must not take the cores of the
# others.
processes=$(($(nproc) + 1))
[ "$processes" -le 4 ] || processes=4
export OMP_WAIT_POLICY=PASSIVE
code=0
.venv/bin/python -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@" || code=$?
if ! wait "$check"; then
  cat "$report" >&2
  echo "test: scripts/check.sh found what stands above" >&2
  exit 1
fi
exit "$code"
