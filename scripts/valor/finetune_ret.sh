#!/usr/bin/env bash
# Fine-tunes VALOR's retrieval on one benchmark. See --help.
set -euo pipefail
about="Fine-tunes VALOR's retrieval on a benchmark, with the settings of its release. Starts from output/valor/pretrain_base; from VALOR-L with
--pretrain_dir output/valor/pretrain_large, whose towers and prompts are then taken."
configs=config/valor/finetune_cfg/retrieval-%s.json
start_of() { echo output/valor/pretrain_base; }
output_of() { echo "${2:-output/valor/from_towers}/downstream/retrieval-$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
