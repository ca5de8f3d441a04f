#!/usr/bin/env bash
# Tests one checkpoint on many benchmarks without training on them: a table and one JSON. Called by the scripts of the families, which name
# their configs.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for argument in "$@"; do
    case "$argument" in -h | --help) cd "$here/.." && exec python3 -m omnivast zero-shot --help ;; esac
done
arguments=("$@")
source "$here/_environment.sh"
exec python -m omnivast zero-shot ${arguments[@]+"${arguments[@]}"}
