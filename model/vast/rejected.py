"""Rejected captions as hard negatives: of each clip those that were found worse than its own (``negatives`` of a row).

As Panda-70M fine-tunes its retrieval to choose the best of eight captions (Chen et al., 2024, section 3.3): for a clip its own caption
and its rejected ones count fully, captions of other clips little. Rejected captions are compared with their own clip alone, so that
nothing more travels between processes. Letters: b pairs of this process, B of the global batch, R rejected captions of this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group
from omnivast.model.vast.parts import Parts
from omnivast.utils import distributed
from omnivast.utils.transfer import to_device

if TYPE_CHECKING:
    from omnivast.data.batch import Texts


@dataclass
class Rejected:
    """The rejected captions of this process's clips, further columns beside the B captions of the global batch."""

    embedded: Tensor
    """(R, contra_dim)"""
    weights: Tensor
    """(b, B + R) how much each caption counts for each clip."""

    def with_rejected(self, model: Parts, group: Group, texts: Tensor, clips: Tensor, logits: Tensor) -> Tensor:
        """Clip-to-text logits (b, B) and those of rejected captions: (b, B + R). ``texts``, ``clips``: vectors of this process's pairs."""
        scores = model.contrast_scores(texts, clips, self.embedded, clips)[1]
        return torch.cat([logits, model.contrast.logits(scores, *model.contrast_scalars(group))], 1)


def rejected_of(texts: Texts | None, embedded: Tensor, targets: Tensor, config: ModelConfig) -> Rejected | None:
    """The rejected captions of a batch, whose vectors are ``embedded``; None where it has none. ``targets``: (b,) the global row of each
    pair.

    Where a clip has rejected captions these weigh ``rejected_weight``, its own 1 and those of other clips ``others_weight``; else all B
    weigh 1. A clip's rejected captions do not count for other clips.
    """
    if texts is None:
        return None
    pairs = torch.arange(len(targets), device=targets.device)
    mine = to_device(texts.clip, targets.device)[None] == pairs[:, None]
    others = torch.where(mine.any(1, keepdim=True), config.others_weight, 1.0)
    captions = others.repeat(1, len(targets) * distributed.world_size()).scatter(1, targets[:, None], 1.0)
    return Rejected(embedded, torch.cat([captions, mine * config.rejected_weight], 1))
