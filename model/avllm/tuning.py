"""What of the language model is trained. To be completed; the signatures stand."""

from __future__ import annotations

from torch import Tensor, nn

from omnivast.config.schema import ModelConfig


def tuned(llm: nn.Module, cfg: ModelConfig) -> nn.Module:
    """``llm`` with its parameters frozen (projectors), with LoRA's beside them (lora: a peft model), or all trained (full)."""
    raise NotImplementedError


def adapter_state(llm: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by peft's names."""
    raise NotImplementedError


def merged(llm: nn.Module) -> nn.Module:
    """The plain language model with the adapter added to its weights; ``llm`` itself where it has none."""
    raise NotImplementedError
