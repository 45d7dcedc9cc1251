#!/usr/bin/env bash
# Set up, check, then run every test. Arguments go to pytest, e.g. scripts/test.sh -k wire
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  -h | --help) echo "Usage: scripts/test.sh [PYTEST ARGUMENTS]   set-up, scripts/check.sh, then the tests"; exit 0 ;;
esac
scripts/setup.sh
scripts/check.sh
exec .venv/bin/python -m pytest "$@"
