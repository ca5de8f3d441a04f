"""The head that tells whether a text fits a clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MatchingHead(nn.Module):
    """Linear, GELU, LayerNorm, linear to 2 classes; class 1 is "matched" (paper, equation 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.layernorm = nn.LayerNorm(width, eps=1e-12)
        self.linear2 = nn.Linear(width, 2)

    def forward(self, cls: Tensor) -> Tensor:
        """(N, D) → (N, 2) logits, in float32 under autocast too: in bfloat16 thousands of pairs would share a few dozen scores."""
        with torch.autocast(cls.device.type, enabled=False):
            return self.linear2(self.layernorm(F.gelu(self.linear1(cls.to(self.linear1.weight.dtype)))))
