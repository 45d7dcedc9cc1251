#!/usr/bin/env bash
# Format, lint (Python and Dockerfile) and strict types, in seconds. --fix rewrites what can be rewritten.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  --fix) .venv/bin/ruff check --quiet --fix . || true; .venv/bin/ruff format . ;;
  -h | --help) echo "Usage: scripts/check.sh [--fix]   format, lint and strict types; --fix rewrites"; exit 0 ;;
  "") ;;
  *) echo "check: unknown option $1" >&2; exit 2 ;;
esac
.venv/bin/ruff format --quiet --check . || { .venv/bin/ruff format --diff . ; echo "check: run scripts/check.sh --fix" >&2; exit 1; }
.venv/bin/ruff check --quiet .
.venv/bin/hadolint Dockerfile
.venv/bin/mypy
