"""BERT's masked-language head: hidden states to words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.model.objectives.generation import vocabulary_loss


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

    def loss(self, hidden: Tensor, labels: Tensor, shares: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """See :func:`omnivast.model.objectives.generation.vocabulary_loss`."""
        return vocabulary_loss(self.states(hidden), self.decoder.weight, self.bias, labels, shares, smoothing)
