"""OM-VCG: conditional causal masked language modelling (paper, equation 3), and the same for answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
FIRST_WORD = 106
"""The release draws random replacement tokens from this id on; a vocabulary's words begin there."""


@dataclass(frozen=True)
class MaskTokens:
    """The ids that masking treats specially, and the size of the vocabulary."""

    pad: int
    cls: int
    mask: int
    vocab_size: int


def mask_tokens(ids: Tensor, tokens: MaskTokens, probability: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict and disguise them, all rows in one call.

    Each token but [CLS] and padding is chosen with ``probability``, at least one per row; a chosen token becomes [MASK]
    with 0.8, a random word with 0.1, itself with 0.1. ids: (N, L); draws: (N, ≥ L, 3) uniform in [0, 1).
    Returns the disguised ids and the labels (the original id where chosen, else IGNORED), both (N, L).
    """
    draws = draws[:, : ids.shape[1]].to(ids.device)
    choice, fate, word = draws.unbind(-1)
    candidates = (ids != tokens.pad) & (ids != tokens.cls)
    chosen = candidates & (choice < probability)
    lowest = choice.masked_fill(~candidates, 2.0).argmin(1, keepdim=True)
    fallback = torch.zeros_like(chosen).scatter(1, lowest, True) & candidates & ~chosen.any(1, keepdim=True)
    chosen = chosen | fallback
    labels = ids.masked_fill(~chosen, IGNORED)
    first = min(FIRST_WORD, tokens.vocab_size - 1)
    words = first + (word * (tokens.vocab_size - first)).long()
    disguised = torch.where(fate < 0.8, torch.full_like(ids, tokens.mask), torch.where(fate < 0.9, words, ids))
    return torch.where(chosen, disguised, ids), labels


def generation_loss(logits: Tensor, labels: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Cross-entropy over the chosen tokens: logits (k, vocabulary), labels (k,).

    ``count`` replaces k as divisor: with several processes, the mean number of chosen tokens per process, so that the mean
    over processes is the mean over the global batch.
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    return loss / (len(labels) if count is None else count)
