"""The layers between towers and the contrastive space, and between towers and text width, of families with towers."""

from __future__ import annotations

from torch import Tensor, nn


class ContrastiveHead(nn.Module):
    """A linear map without bias to the contrastive space."""

    def __init__(self, width: int, contra_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, contra_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, contra_dim)."""
        return self.linear(x)


def condition_projection(width: int, text_width: int) -> nn.Sequential:
    """Tokens of a modality → condition features of the text width."""
    return nn.Sequential(nn.Linear(width, text_width), nn.LayerNorm(text_width, eps=1e-12))
