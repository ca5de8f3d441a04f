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

# The tests that lay out the project's pages need a browser and say so where there is none. A build machine may be given one.
if [ "${CI:-}" = true ] && [ "$(id -u)" -eq 0 ] && ! command -v chromium chromium-browser google-chrome >/dev/null && command -v apt-get >/dev/null
then
    echo "installing Chromium for the tests of the pages"
    { timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends chromium
    } </dev/null >/dev/null 2>&1 || echo "Chromium could not be installed; its tests are skipped"
fi

status=0
failed=()
check() {
    echo
    echo "== $*"
    "$@" || { status=1; failed+=("$*"); }
}

check ruff check .
check bash scripts/types.sh
# A file's tests stay together, for what they share; tests/conftest.py decides which files come first.
check python -m pytest -q --durations=15 -n 2 --dist loadfile --no-loadscope-reorder "$@"

if [ "$status" -ne 0 ]; then printf '\nFAILED: %s\n' "${failed[@]}"; fi
exit "$status"
