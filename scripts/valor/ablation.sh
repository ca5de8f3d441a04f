#!/usr/bin/env bash
# Pretraining of one row of the tables 8 to 13 of VALOR's paper. See --help.
set -euo pipefail
about="Pretrains one row of the tables 8 to 13 of VALOR's paper, on VALOR-1M, and tests it as it is. To fine-tune what came of it:
scripts/valor/finetune_ret.sh (or _cap, _qa) with --pretrain_dir output/valor/ablation/NAME."
configs=config/valor/ablation_cfg/%s.json
start_of() { :; }
output_of() { echo "output/valor/ablation/$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
