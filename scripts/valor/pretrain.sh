#!/usr/bin/env bash
# Pretraining of VALOR-B and VALOR-L, with the settings of its release. See --help.
set -euo pipefail
about="Pretrains VALOR: base (Video Swin-B; VALOR-1M, WebVid-2.5M, CC3M) or large (CLIP ViT-L; seven corpora). 8 GPUs in the paper's release.
What the paper and the release differ in stands in the config."
configs=config/valor/pretrain_cfg/pretrain_%s.json
choices="base large"
start_of() { :; }
output_of() { echo "output/valor/pretrain_$1"; }
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
