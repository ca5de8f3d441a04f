#!/usr/bin/env bash
# Everything once, in minutes on two CPU cores: clips, pretraining, three fine-tunings, tests, report. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) exec python3 "$(dirname "${BASH_SOURCE[0]}")/quickstart.py" --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec python scripts/quickstart.py "$@"
