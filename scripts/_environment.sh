# Sourced by the scripts beside it: enters the repository, makes and activates .venv if no environment is active, installs.
# preinstall_flags, where set, goes to preinstall.sh. PYTHON names the interpreter that a new .venv is made with (default: python3).

cd "$(dirname "${BASH_SOURCE[0]}")/.."

_in_environment() {
    command -v python >/dev/null || return 1
    [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || return 1
    python -c 'import os, sys; sys.exit(sys.prefix == sys.base_prefix and not os.path.isdir(sys.prefix + "/conda-meta"))'
}

_make_venv() {
    local base="${PYTHON:-python3}"
    if ! command -v "$base" >/dev/null; then
        echo "$base was not found; OmniVAST needs Python 3.10 or newer (PYTHON=python3.12 bash scripts/... names another)" >&2
        return 1
    fi
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "$base is $("$base" --version 2>&1); OmniVAST needs Python 3.10 or newer (PYTHON=python3.12 bash scripts/... names another)" >&2
        return 1
    fi
    if ! "$base" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$base cannot make virtual environments: its venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2
        return 1
    fi
    echo "no environment is active: making .venv"
    # Cleared, because what is there without a working Python is left over from a venv that was interrupted or moved.
    "$base" -m venv --clear .venv
}

if ! _in_environment; then
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        _make_venv || exit 1
    fi
    source .venv/bin/activate
fi
bash preinstall.sh ${preinstall_flags:-} || exit 1

export TOKENIZERS_PARALLELISM=false
# Let glibc keep freed memory rather than return it to the system: touching freshly mapped pages is slow on virtual machines.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-33554432}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}"
# Large pages for its heap, where the system grants them on request: a step that makes tensors of ever other sizes then takes a hundredth of
# the page faults, each of which is slow there too.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
