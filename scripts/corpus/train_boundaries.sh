#!/usr/bin/env bash
# Trains the network that finds shot boundaries, in less than ten minutes of one core. Arguments go to the program: --pictures FOLDER and
# --videos FILE … add photographs and single shots to the synthetic ones. With what it was tried with:
#     bash scripts/corpus/boundary_sources.sh F
#     bash scripts/corpus/train_boundaries.sh --pictures F/pictures --videos F/videos/{bbb,box,cup}.mp4 F/videos/{tree,vtest}.avi \
#         F/videos/{a,b,bigbuckbunny,bikes,carphone_pristine,world}.mp4
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/_environment.sh
export OMP_NUM_THREADS=1
exec nice -n 15 python -m omnivast.corpus.boundaries.train --output corpus/boundaries/weights/boundaries.safetensors "$@"
