#!/usr/bin/env bash
# Pretraining on the six corpora of the paper's Table 8. See --help.
set -euo pipefail
about="Pretrains VAST on the six corpora of Table 8: 205,000 steps, batches of 1,024 and 2,048 clips (64 V100 in the paper)."
configs=config/vast/pretrain_cfg/pretrain_vast.json
start_of() { :; }
output_of() { echo output/vast/pretrain_vast; }
source "$(dirname "${BASH_SOURCE[0]}")/_recipe.sh"
