#!/usr/bin/env bash
# The best caption of eight on OmniStamps, before and after fine-tuning. See --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../_environment.sh"
exec python -m omnivast.scripts.omnistamps.choose "$@"
