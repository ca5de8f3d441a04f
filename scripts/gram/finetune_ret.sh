#!/usr/bin/env bash
# Fine-tunes GRAM's retrieval on one benchmark. See --help.
set -euo pipefail
about="Fine-tunes GRAM's retrieval on a benchmark, with the settings of its release. Starts from output/gram/pretrain_gram."
configs=config/gram/finetune_cfg/retrieval-%s.json
start_of() { echo output/gram/pretrain_gram; }
output_of() { echo "${2:-output/gram/from_towers}/downstream/retrieval-$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
