"""OM-VCG: conditional causal masked language modelling (paper, equation 3), and the same for answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivast.model.device_kind import device_kind

IGNORED = -100
LOGITS = {"cpu": 2**23, "cuda": 2**27}
"""Logits that exist at once, by type of device."""
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


class _VocabularyLoss(torch.autograd.Function):
    """Gradients are made in the forward pass, part by part: logits of all rows never exist at once, and none is computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, shares: Tensor, learn: bool,
                smoothing: float) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        each = hidden.new_empty(len(labels), dtype=torch.float32)
        # Gradients of half precision would underflow if each row's share, 1 over the number of rows, stood in them.
        scale = shares.max() if len(shares) else shares.new_ones(())
        gradients = [torch.zeros_like(x, dtype=torch.float32) for x in (hidden, weight, bias)] if learn else []
        with torch.autocast(kind, enabled=False):
            states, words, offsets = (x.to(dtype) for x in (hidden, weight, bias))
            size = max(1, LOGITS.get(device_kind(hidden), LOGITS["cuda"]) // len(weight))
            for part in (slice(start, start + size) for start in range(0, len(labels), size)):
                logits = F.linear(states[part], words, offsets).float()
                each[part] = _cross_entropy(logits, labels[part, None], shares[part] / scale, smoothing)
                if learn:
                    _add_gradients(logits, states[part], words, part, *gradients)
                del logits  # before the next part is made
        if learn:
            ctx.save_for_backward(scale, *gradients)
            ctx.kind = hidden.dtype
        ctx.mark_non_differentiable(each)
        return (each * shares).sum(), each

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scale, hidden, weight, bias = ctx.saved_tensors
        factor = gradient * scale
        return (hidden * factor).to(ctx.kind), weight * factor, bias * factor, None, None, None, None


def _cross_entropy(logits: Tensor, target: Tensor, factors: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each row, (k,); or, with ``smoothing``, its divergence from what is wanted. Overwrites ``logits`` (k, vocabulary)
    with their gradients times ``factors`` (k,)."""
    top = logits.amax(1, keepdim=True)
    wanted = logits.gather(1, target)
    if smoothing:
        others = smoothing / (logits.shape[1] - 1)
        entropy = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(others) if smoothing < 1 else math.log(others)
        wanted = (1 - smoothing - others) * wanted + others * logits.sum(1, keepdim=True) - entropy
    total = logits.sub_(top).exp_().sum(1, keepdim=True)
    logits.mul_(factors[:, None] / total)
    if smoothing:
        logits.sub_(others * factors[:, None]).scatter_add_(1, target, (smoothing + others - 1) * factors[:, None])
    else:
        logits.scatter_add_(1, target, -factors[:, None])
    return (total.log() + top - wanted).squeeze(1)


def _add_gradients(logits: Tensor, states: Tensor, words: Tensor, part: slice, hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Adds to the gradients of hidden states, words and biases what follows from the gradient of some rows' logits."""
    bias += logits.sum(0)
    logits = logits.to(words.dtype)
    hidden[part] = logits @ words
    if words.dtype is torch.float32:
        torch.addmm(weight, logits.T, states, out=weight)
    else:
        weight += logits.T @ states


def vocabulary_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, shares: Tensor, smoothing: float = 0.0,
                    ) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the words ``labels`` under logits hidden · weightᵀ + bias: their sum weighted by ``shares``, and each.

    With ``smoothing`` s the Kullback-Leibler divergence from 1 − s at the word and s / (vocabulary − 1) at every other (VALOR).

    hidden: (k, D); weight: (vocabulary, D); labels: (k,); shares: (k,) positive, such as 1 over the number of tokens of each
    loss. Returns a float32 scalar and (k,) float32 without gradient. Products are in autocast's type where it is on.
    """
    learn = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    total, each = _VocabularyLoss.apply(hidden, weight, bias, labels, shares, learn, smoothing)
    return total, each
