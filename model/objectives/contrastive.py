"""OM-VCC: video-caption contrastive loss (paper, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarities over the temperature of this process's b pairs with the global batch B.

    texts, clips: (b, dim) unit rows; all_texts, all_clips: (B, dim). Returns text-to-clip and clip-to-text, each (b, B).
    """
    return texts @ all_clips.T / temperature, clips @ all_texts.T / temperature


def contrastive_loss(text_to_clip: Tensor, clip_to_text: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of the cross-entropies in both directions; ``targets`` (b,) is the global row of each local pair."""
    return (F.cross_entropy(text_to_clip, targets, label_smoothing=label_smoothing)
            + F.cross_entropy(clip_to_text, targets, label_smoothing=label_smoothing)) / 2


@torch.no_grad()
def hard_negatives(similarity: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
    """One negative per row, drawn in proportion to softmax(similarity) + 1e-4, never the target.

    similarity: (b, B), already over the temperature; draws: (b,) uniform in [0, 1). Returns (b,) columns, by inverting the
    cumulative distribution: one vectorised call, reproducible from the draws. With B = 1 there is no negative: the target.
    """
    weights = similarity.float().softmax(1) + 1e-4
    weights = weights.scatter(1, targets[:, None], 0.0).double()
    cumulative = weights.cumsum(1)
    threshold = draws.to(cumulative)[:, None] * cumulative[:, -1:]
    # The first column whose cumulative weight exceeds the threshold; clamped below the last positive weight against rounding.
    columns = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    last = torch.arange(weights.shape[1], device=weights.device).expand_as(weights).masked_fill(weights == 0, -1).amax(1)
    return torch.where(last < 0, targets, torch.minimum(columns, last))
