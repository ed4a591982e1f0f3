#!/usr/bin/env bash
# Small changes that some test must notice: see tests/mutants/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 tests/mutants/run.py "$@"
