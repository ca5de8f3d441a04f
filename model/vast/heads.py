"""The heads on top of the towers: contrastive, matching, and the projection of tokens into the text width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ContrastiveHead(nn.Module):
    """A linear map without bias to the contrastive space; single modalities and the text use it."""

    def __init__(self, width: int, contra_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, contra_dim, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, width) → (B, contra_dim)."""
        return self.linear(pooled)


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


def condition_projection(width: int, text_width: int) -> nn.Sequential:
    """Tokens of a modality → condition features of the text width."""
    return nn.Sequential(nn.Linear(width, text_width), nn.LayerNorm(text_width, eps=1e-12))
