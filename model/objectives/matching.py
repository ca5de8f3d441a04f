"""OM-VCM: video-caption matching loss (paper, equation 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def matching_loss(positives: Tensor, *negatives: Tensor) -> Tensor:
    """Mean binary cross-entropy of (b, 2) logits: one positive and any number of negative pairs per sample."""
    logits = torch.cat([positives, *negatives]).float()
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(positives)] = 1
    return F.cross_entropy(logits, labels)
