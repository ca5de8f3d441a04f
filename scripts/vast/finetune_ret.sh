#!/usr/bin/env bash
# Fine-tunes retrieval on one benchmark of the paper's Table 10. See --help.
set -euo pipefail
about="Fine-tunes retrieval on a benchmark, with the settings of the paper's Table 10. Starts from output/vast/pretrain_vast."
configs=config/vast/finetune_cfg/retrieval-%s.json
start_of() { echo output/vast/pretrain_vast; }
output_of() { echo "${2:-output/vast/from_towers}/downstream/retrieval-$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
