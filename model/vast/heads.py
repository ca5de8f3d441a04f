"""The heads on top of the towers: contrastive, matching, and the projection of tokens into the text width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.model.objectives.generation import vocabulary_loss


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


class _Transform(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)


class WordHead(nn.Module):
    """BERT's masked-language head; its output projection is the word embedding matrix."""

    def __init__(self, words: nn.Embedding, eps: float) -> None:
        super().__init__()
        vocabulary, width = words.weight.shape
        self.transform = _Transform(width, eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.decoder = nn.Linear(width, vocabulary)
        self.decoder.weight, self.decoder.bias = words.weight, self.bias

    def states(self, hidden: Tensor) -> Tensor:
        """(k, D) → (k, D): what is projected to the vocabulary."""
        return self.transform.LayerNorm(F.gelu(self.transform.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """(k, D) → (k, vocabulary)."""
        return self.decoder(self.states(hidden))

    def loss(self, hidden: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`model.objectives.generation.vocabulary_loss`."""
        return vocabulary_loss(self.states(hidden), self.decoder.weight, self.bias, labels, shares)
