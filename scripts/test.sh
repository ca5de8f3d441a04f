#!/usr/bin/env bash
# Lint, types and every test: fast ones first, in parallel, then those that run the whole program. Arguments are passed to pytest.
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
summaries=()
failed=()
step() {
    echo
    echo "== $*"
}
check() {
    step "$@"
    "$@" || { status=1; failed+=("$*"); }
}
tests() { # name, marker expression, pytest's arguments
    local name="$1" markers="$2" code=0 log
    shift 2
    log="$(mktemp)"
    step "pytest: $name"
    python -m pytest -q --durations=10 -m "$markers" "$@" 2>&1 | tee "$log" || code=$?
    # 5: the arguments select no test of this kind.
    if [ "$code" -ne 0 ] && [ "$code" -ne 5 ]; then status=1; fi
    summaries+=("$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)")
    rm -f "$log"
}

check ruff check .
check mypy
tests "fast tests" "not slow and not e2e" -n 2 "$@"
tests "whole program" "slow or e2e" -n 2 --dist loadfile "$@"

echo
if [ "${#failed[@]}" -gt 0 ]; then printf 'FAILED: %s\n' "${failed[@]}"; fi
printf '%s\n' "${summaries[@]}"
exit "$status"
