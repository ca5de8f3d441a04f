#!/usr/bin/env bash
# Trains the network that finds shot boundaries, in less than 20 minutes of one core. Arguments go to the program: --pictures FOLDER and
# --videos FILE … add photographs and single shots to the synthetic ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/_environment.sh
export OMP_NUM_THREADS=1
exec nice -n 15 python -m omnivast.corpus.boundaries.train --output corpus/boundaries/weights/boundaries.safetensors "$@"
