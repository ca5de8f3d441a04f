#!/usr/bin/env bash
# Tests one checkpoint on many benchmarks without training on them: a table and one JSON. See --help.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../_zero_shot.sh" --configs config/avllm/finetune_cfg "$@"
