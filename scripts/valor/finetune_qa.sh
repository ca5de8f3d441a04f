#!/usr/bin/env bash
# Fine-tunes VALOR's question answering on one benchmark. See --help.
set -euo pipefail
about="Fine-tunes VALOR's question answering on a benchmark, with the settings of its release. Starts from output/valor/pretrain_base; from
VALOR-L with --pretrain_dir output/valor/pretrain_large."
configs=config/valor/finetune_cfg/VQA-%s.json
start_of() { echo output/valor/pretrain_base; }
output_of() { echo "${2:-output/valor/from_towers}/downstream/VQA-$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
