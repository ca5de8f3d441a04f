#!/usr/bin/env bash
# Installs what OmniVAST needs into the active Python environment (venv or conda). Run again, it does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'HELP'
usage: bash preinstall.sh [--dev] [--force] [--system]

Installs requirements.txt with pip into the active venv or conda environment.
  --dev      also requirements-dev.txt: what lint and tests need
  --force    ask pip even if an earlier call installed the same files here
  --system   install into the `python` found first even if no environment is active
HELP
}

fail() {
    echo "preinstall.sh: $1" >&2
    exit 1
}

dev=false force=false system=false
for argument in "$@"; do
    case "$argument" in
        --dev) dev=true ;;
        --force) force=true ;;
        --system) system=true ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $argument" ;;
    esac
done

python="$(command -v python || command -v python3)" || fail "no Python found; OmniVAST needs Python 3.10 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$python is $("$python" --version 2>&1); OmniVAST needs Python 3.10 or newer"
prefix="$("$python" -c 'import sys; print(sys.prefix)')"
if ! $system && ! "$python" -c 'import os, sys; sys.exit(sys.prefix == sys.base_prefix and not os.path.isdir(sys.prefix + "/conda-meta"))'; then
    fail "no environment is active. Make one and activate it:
    python3 -m venv .venv && source .venv/bin/activate
or install into $prefix on purpose with --system"
fi

# The stamp holds a hash of the requirement files and of the Python version, for each of the two sets.
stamp_of() {
    { "$python" --version; cat "$@"; } | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}
stamps="$prefix/.omnivast_installed"
files=requirements.txt
stamp="$(stamp_of requirements.txt)"
dev_stamp="$(stamp_of requirements.txt requirements-dev.txt)"
wanted="$stamp"
if $dev; then
    files=requirements-dev.txt
    wanted="$dev_stamp"
fi
if ! $force && grep -qsx "$wanted" "$stamps"; then
    echo "preinstall.sh: $files is installed in $prefix already"
    exit 0
fi
echo "preinstall.sh: installing $files into $prefix (PyTorch is large: minutes on a slow line)"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; try: $python -m ensurepip --upgrade (or apt install python3-pip)"
"$python" -m pip install --disable-pip-version-check -r "$files" || fail "pip could not install $files; see its message above"
{
    echo "$stamp"
    if $dev; then echo "$dev_stamp"; fi
} >"$stamps.new"
mv "$stamps.new" "$stamps"
echo "preinstall.sh: done"
