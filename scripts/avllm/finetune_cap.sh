#!/usr/bin/env bash
# Fine-tunes the Audio-Visual LLM's captioning on one benchmark. See --help.
set -euo pipefail
about="Fine-tunes the Audio-Visual LLM's captioning on a benchmark, with stage 2's settings; the paper tests zero-shot alone, as
scripts/avllm/zero_shot.sh does. Starts from output/avllm/stage2."
configs=config/avllm/finetune_cfg/caption-%s.json
start_of() { echo output/avllm/stage2; }
output_of() { echo "${2:-output/avllm/from_towers}/downstream/caption-$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
