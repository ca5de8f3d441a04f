"""The text tower in plain padded operations, which ``torch.export`` and ONNX can follow; nothing is planned on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from omnivast.model.text.bert import TextModel
from omnivast.model.text.packing import Packing


def padded_states(tower: TextModel, ids: Tensor, mask: Tensor) -> Tensor:
    """ids, mask (N, L) on the tower's device → the states (N, L, D) that ``tower.encode`` computes of real tokens; those of padding mean
    nothing. N and L may be symbols."""
    n, length = ids.shape
    x = tower.bert.embeddings(ids, torch.arange(length, device=ids.device)).flatten(0, 1)
    packing, attend = Packing((n, length), None), mask.bool()[:, None, None, :]
    for block in tower.blocks:
        x = block(x, packing, attend)
    return x.view(n, length, -1)
