#!/usr/bin/env bash
# Long videos in, a corpus out, and what a model learns from it beside what it learns from the true annotations. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) cd "$(dirname "${BASH_SOURCE[0]}")/../.." && exec python3 -m omnivast.scripts.corpus.proof --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/../_environment.sh"
exec python -m omnivast.scripts.corpus.proof "$@"
