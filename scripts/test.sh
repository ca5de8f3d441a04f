#!/usr/bin/env bash
# Lint, types and every test, fast ones first, in two processes. Arguments are passed to pytest.
set -uo pipefail
case "${1:-}" in
    -h | --help)
        echo "usage: bash scripts/test.sh [pytest's arguments]"
        echo "Runs ruff, mypy and all tests in the active environment, or in .venv; installs what they need first."
        exit 0
        ;;
esac
preinstall_flags=--dev
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

status=0
failed=()
check() {
    echo
    echo "== $*"
    "$@" || { status=1; failed+=("$*"); }
}

check ruff check .
check mypy
# A file's tests stay together, for what they share; tests/conftest.py decides which files come first.
check python -m pytest -q --durations=15 -n 2 --dist loadfile --no-loadscope-reorder "$@"

if [ "$status" -ne 0 ]; then printf '\nFAILED: %s\n' "${failed[@]}"; fi
exit "$status"
