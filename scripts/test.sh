#!/usr/bin/env bash
# Set up, check, then run every test. Arguments go to pytest, e.g. scripts/test.sh -k protocol
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help)
    echo "Usage: scripts/test.sh [PYTEST ARGUMENTS]   set-up, scripts/check.sh, then the tests in up to four processes"
    exit 0
    ;;
esac
# Tests start some hundred commands: what they import is compiled at the first one.
unset PYTHONDONTWRITEBYTECODE
scripts/setup.sh
scripts/check.sh
# A process more than cores, because much of the time is waiting for servers; idle threads must not take the cores of the
# others.
processes=$(($(nproc) + 1))
[ "$processes" -le 4 ] || processes=4
export OMP_WAIT_POLICY=PASSIVE
exec .venv/bin/python -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@"
