"""The language model. To be completed; the signatures stand."""

from __future__ import annotations

from typing import Any

from torch import nn

from omnivast.config.schema import ModelConfig


def load_llm(cfg: ModelConfig) -> tuple[nn.Module, Any]:
    """(causal LM of transformers in float32 on the CPU, its tokenizer)."""
    raise NotImplementedError
