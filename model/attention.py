"""Scaled dot-product attention: torch's fused kernels, but for one case where plain matrix products are several times faster.

On CPUs, the backward pass of torch's fused kernel in bfloat16 takes several times as long as the matrix products that it
replaces (``benchmarks/attention.py`` times both), so training there uses the products. Everything else, inference on CPUs too,
goes through ``scaled_dot_product_attention``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivast.model.device_kind import device_kind


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """query (…, H, L, d), key and value (…, H, N, d), mask broadcastable to (…, H, L, N) → (…, H, L, d).

    The mask is boolean (True where a query sees a key; each must see at least one) or is added to the scores.
    """
    plain = device_kind(query) == "cpu" and query.dtype is torch.bfloat16 and query.requires_grad
    if not plain:
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.to(query.dtype)
        if device_kind(query) != query.device.type:
            dropout = 0.0  # with dropout, CPUs would keep all weights, which no GPU does
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + (mask.to(scores.dtype) if mask.dtype is not torch.bool else additive(mask, scores.dtype))
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ value


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as what is added to the scores: 0 where seen, −∞ elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
