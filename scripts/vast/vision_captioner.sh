#!/usr/bin/env bash
# Trains the vision captioner and labels videos or images with it. See --help.
set -euo pipefail
about="The vision captioner: pretrain (CC4M, CC12M, 102 M pairs of LAION), finetune (MSCOCO, VATEX, MSR-VTT, MSVD), generation (five
captions for each clip of datasets/srcdata/yourdata/videos listed in datasets/annotations/yourdata/meta.json; other places:
--data_cfg.val.0.txt FILE --data_cfg.val.0.vision FOLDER, and for images --data_cfg.val.0.vision_format image_rawimage
--data_cfg.val.0.vision_sample_num 1). Run again, generation goes on where it stopped."
configs=config/vast/captioner_cfg/caption-%s-vision.json
choices="pretrain finetune generation"
start_of() {
    case "$1" in
        finetune) echo output/vast/vision_captioner_pretrain ;;
        generation) echo output/vast/vision_captioner ;;
    esac
}
output_of() {
    case "$1" in
        pretrain) echo output/vast/vision_captioner_pretrain ;;
        finetune) echo output/vast/vision_captioner ;;
        generation) echo "${2:-output/vast/vision_captioner}/generation" ;;
    esac
}
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
