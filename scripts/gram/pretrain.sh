#!/usr/bin/env bash
# GRAM's pretraining on 150,000 clips of VAST-27M. See --help.
set -euo pipefail
about="Pretrains GRAM as its release does: from a pretrained VAST (output/vast/pretrain_vast), on 150,000 clips of VAST-27M."
configs=config/gram/pretrain_cfg/pretrain_gram.json
start_of() { echo output/vast/pretrain_vast; }
output_of() { echo output/gram/pretrain_gram; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
