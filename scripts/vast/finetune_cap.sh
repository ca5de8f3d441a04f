#!/usr/bin/env bash
# Fine-tunes captioning on one benchmark of the paper's Table 10. See --help.
set -euo pipefail
about="Fine-tunes captioning on a benchmark, with the settings of the paper's Table 10. Starts from output/vast/pretrain_vast; NAME_scst
(self-critical training) from the best checkpoint of NAME."
configs=config/vast/finetune_cfg/caption-%s.json
start_of() {
    case "$1" in
        *_scst) echo "output/vast/pretrain_vast/downstream/caption-${1%_scst}" ;;
        *) echo output/vast/pretrain_vast ;;
    esac
}
output_of() {
    case "$1" in
        *_scst) echo "${2:-output/vast/from_towers/downstream/caption-${1%_scst}}_scst" ;;
        *) echo "${2:-output/vast/from_towers}/downstream/caption-$1" ;;
    esac
}
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
