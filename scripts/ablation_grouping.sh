#!/usr/bin/env bash
# Table 7, rows (i) and (j), of the VAST paper on OmniStamps: pretraining with and without modality grouping. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) cd "$(dirname "${BASH_SOURCE[0]}")/.." && exec python3 -m omnivast ablation --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec python -m omnivast ablation "$@"
