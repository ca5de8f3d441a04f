"""The layers between VALOR's towers and the contrastive space, and between towers and text width."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """A linear map without bias to the contrastive space."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, dim)."""
        return self.linear(x)


def slot_logits(dim: int) -> nn.Sequential:
    """Unit vectors of slots → how much each weighs, before the softmax (…, 1)."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def projection(width: int, text_width: int) -> nn.Sequential:
    """Tokens of a modality → condition features of the text width."""
    return nn.Sequential(nn.Linear(width, text_width), nn.LayerNorm(text_width, eps=1e-12))
