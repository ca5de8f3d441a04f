#!/usr/bin/env bash
# Stage 2 of the Audio-Visual LLM. See --help.
set -euo pipefail
about="Stage 2 of the Audio-Visual LLM: conversations, the projectors and the language model are trained. Starts from output/avllm/stage1.
LoRA instead of all weights: scripts/avllm/ablation.sh lora."
configs=config/avllm/finetune_cfg/stage2.json
start_of() { echo output/avllm/stage1; }
output_of() { echo output/avllm/stage2; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
