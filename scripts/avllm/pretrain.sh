#!/usr/bin/env bash
# Stage 1 of the Audio-Visual LLM. See --help.
set -euo pipefail
about="Stage 1 of the Audio-Visual LLM: captions behind the media, the projectors alone are trained. 8 GPUs in the paper. Another language model:
--llm FOLDER or FILE.gguf."
configs=config/avllm/pretrain_cfg/stage1.json
start_of() { :; }
output_of() { echo output/avllm/stage1; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
