#!/usr/bin/env bash
# Trains the audio captioner and labels sounds with it. See --help.
set -euo pipefail
about="The audio captioner: pretrain (VALOR-1M, WavCaps; the paper fine-tunes the vision captioner alone), generation (five captions for
each sound of datasets/srcdata/yourdata/audios listed in datasets/annotations/yourdata/meta.json; other places:
--data_cfg.val.0.txt FILE --data_cfg.val.0.audio FOLDER). Run again, generation goes on where it stopped."
configs=config/vast/captioner_cfg/caption-%s-audio.json
choices="pretrain generation"
start_of() {
    case "$1" in generation) echo output/vast/audio_captioner ;; esac
}
output_of() {
    case "$1" in
        pretrain) echo output/vast/audio_captioner ;;
        generation) echo "${2:-output/vast/audio_captioner}/generation" ;;
    esac
}
source "$(dirname "${BASH_SOURCE[0]}")/../_recipe.sh"
