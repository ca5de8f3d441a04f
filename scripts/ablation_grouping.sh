#!/usr/bin/env bash
# Table 7, rows (i) and (j), of the VAST paper on OmniStamps: pretraining with and without modality grouping. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) exec python3 "$(dirname "${BASH_SOURCE[0]}")/ablation_grouping.py" --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec python scripts/ablation_grouping.py "$@"
