#!/usr/bin/env bash
# Stage 2 of one row of the tables 4 to 9 or the figures 9 and 10 of the Audio-Visual LLM's paper. See --help.
set -euo pipefail
about="Trains stage 2 of one row of the tables 4 to 7 and 9 (lora) or of the figures 9 and 10 of the Audio-Visual LLM's paper. Starts from
output/avllm/stage1; rows of tables 5 to 7 need a stage 1 with their own towers or language model: name it with --pretrain_dir."
configs=config/avllm/ablation_cfg/%s.json
start_of() { echo output/avllm/stage1; }
output_of() { echo "output/avllm/$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
