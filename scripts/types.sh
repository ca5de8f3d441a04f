#!/usr/bin/env bash
# Checks the types with mypy. It finds the package only where its folders lie inside one named omnivast, as in an installation: links do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
links="$PWD/.mypy_cache/links"
rm -rf "$links"
mkdir -p "$links/omnivast"
ln -s "$PWD"/omnivast/*.py "$PWD"/{config,corpus,data,evaluation,inference,model,scripts,training,utils} "$links/omnivast/"
ln -s "$PWD"/{benchmarks,run.py,setup.py} "$links/"
cd "$links"
exec mypy --config-file ../../pyproject.toml --cache-dir .. "$@" run.py setup.py omnivast benchmarks
