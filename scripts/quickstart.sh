#!/usr/bin/env bash
# Everything once, in minutes on two CPU cores: clips, pretraining, three fine-tunings, tests, report. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) cd "$(dirname "${BASH_SOURCE[0]}")/.." && exec python3 -m omnivast quickstart --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec python -m omnivast quickstart "$@"
