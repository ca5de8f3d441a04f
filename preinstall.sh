#!/usr/bin/env bash
# Installs what OmniVAST needs into the active Python environment (venv or conda). Run again, it does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'HELP'
usage: bash preinstall.sh [--dev] [--all] [--force] [--system]

Installs requirements.txt with pip into the active venv or conda environment.
  --dev      also the extra "dev" of pyproject.toml: what lint and tests need
  --all      also every extra of "all", one by one; what pip cannot install is named and left out
  --force    ask pip even if an earlier call installed the same here
  --system   install into the `python` found first even if no environment is active
HELP
}

fail() {
    echo "preinstall.sh: $1" >&2
    exit 1
}

dev=false all=false force=false system=false
for argument in "$@"; do
    case "$argument" in
        --dev) dev=true ;;
        --all) all=true ;;
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

"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; try: $python -m ensurepip --upgrade (or apt install python3-pip)"

# What is listed under extras of pyproject.toml, one a line. With --names the extras that "omnivast[a,b]" stands for, else their packages.
listed() {
    "$python" - "$@" <<'PYTHON' || fail "the extras in pyproject.toml cannot be read"
import re, sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
names_only = sys.argv[1] == "--names"

def listed(extra):
    for line in extras[extra]:
        inner = re.fullmatch(r"omnivast\[(.*)\]", line)
        for name in inner[1].split(",") if inner else ():
            yield from [name] if names_only else listed(name)
        if not inner:
            yield line

print(*listed(sys.argv[-1]), sep="\n")
PYTHON
}

# A set is what is installed by one call of pip: requirements.txt, with or without an extra. Its stamp is a hash of the Python version and of
# what is listed for it.
stamps="$prefix/.omnivast_installed"
stamp_of() {
    { "$python" --version; cat requirements.txt; printf '%s\n' "$@"; } |
        "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}
has_stamp() {
    ! $force && grep -qsx "$1" "$stamps"
}
ask_pip() {
    "$python" -m pip install --disable-pip-version-check -r requirements.txt "$@"
}

set="requirements.txt" packages=""
if $dev; then
    set="requirements.txt and the extra dev"
    packages="$(listed dev)"
fi
stamp="$(stamp_of $packages)"
if has_stamp "$stamp"; then
    echo "preinstall.sh: $set: installed in $prefix already"
else
    echo "preinstall.sh: installing $set into $prefix (PyTorch is large: minutes on a slow line)"
    ask_pip $packages || fail "pip could not install $set; see its message above"
    # Only what holds now: the stamps of other requirements, and of extras installed beside them, are dropped.
    { stamp_of; echo "$stamp"; } | sort -u >"$stamps.new"
    mv "$stamps.new" "$stamps"
fi
$all || exit 0

extras="$(listed --names all)"
without=""
for extra in $extras; do
    packages="$(listed "$extra")"
    stamp="$(stamp_of $packages)"
    if has_stamp "$stamp"; then
        echo "preinstall.sh: extra $extra: installed in $prefix already"
    elif echo "preinstall.sh: installing the extra $extra ($packages)" && ask_pip $packages; then
        echo "$stamp" >>"$stamps"
    else
        without="$without $extra"
    fi
done
if [ -n "$without" ]; then
    echo "preinstall.sh: pip could not install:$without (its messages are above); all else is installed" >&2
else
    echo "preinstall.sh: all extras are installed"
fi
