#!/usr/bin/env bash
# Fine-tunes VALOR's captioning on one benchmark. See --help.
set -euo pipefail
about="Fine-tunes VALOR's captioning on a benchmark, with the settings of its release. Starts from output/valor/pretrain_base; from VALOR-L with
--pretrain_dir output/valor/pretrain_large. NAME_scst (self-critical training) starts from the best checkpoint of NAME."
configs=config/valor/finetune_cfg/caption-%s.json
start_of() {
    case "$1" in
        *_scst) echo "output/valor/pretrain_base/downstream/caption-${1%_scst}" ;;
        *) echo output/valor/pretrain_base ;;
    esac
}
output_of() {
    case "$1" in
        *_scst) echo "${2:-output/valor/from_towers/downstream/caption-${1%_scst}}_scst" ;;
        *) echo "${2:-output/valor/from_towers}/downstream/caption-$1" ;;
    esac
}
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
