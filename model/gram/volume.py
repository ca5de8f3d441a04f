"""How far texts and clips are apart: the volume that a text spans with the modalities of a clip (Cicchetti et al., Gramian Multimodal
Representation Learning and Alignment, ICLR 2025, section 3). Unit vectors that agree span nothing, orthogonal ones a cube of volume 1.

The volume is √det G, G the Gram matrix of the text and the k modalities. With M that of the modalities alone and c the k products with
the text, det G = det M − cᵀ adj(M) c: M, its determinant and its adjugate are known once per clip, so that a table of T texts and C clips
costs k products, no matrix per pair, and no division. Letters: T texts, C clips, k modalities (3 at most), D numbers of a vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEAR = 1e-3
"""Volume below which its gradient grows no further: it is about what rounding leaves of a volume of 0 in float32."""


def volumes(texts: Tensor, clips: Tensor) -> Tensor:
    """Volumes (T, C) in [0, 1] of texts (T, D) with clips (C, k, D), unit vectors, in float32 also under autocast (float64 of float64).

    A vector of zeros stands for a modality that a clip lacks: the volume is then that of the others. The sign of a vector does not count:
    of one modality the volume is the sine of its angle to the text.
    """
    with torch.autocast(texts.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(texts.dtype, clips.dtype), torch.float32)
        texts, clips = texts.to(wide), clips.to(wide)
        determinant, adjugate = _clip_parts(clips)
        products = [texts @ own.T for own in clips.unbind(1)]
        for i, one in enumerate(products):
            for j, other in enumerate(products[: i + 1]):
                determinant = determinant - (1 if i == j else 2) * adjugate[:, i, j] * one * other
        return _Root.apply(determinant)


def _clip_parts(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Determinant (C,) and adjugate (C, k, k) of the Gram matrix of each clip's vectors. Its diagonal is 1, the length of unit vectors,
    without rounding; for zeros too, which then leave the determinant as it is without them."""
    count, k = clips.shape[:2]
    one = clips.new_ones(count)
    if k == 1:
        return one, one[:, None, None]
    first, second = clips[:, 0], clips[:, 1]
    a = (first * second).sum(1)
    if k == 2:
        return 1 - a * a, torch.stack([one, -a, -a, one], 1).unflatten(1, (2, 2))
    b, d = (first * clips[:, 2]).sum(1), (second * clips[:, 2]).sum(1)
    ab, ac, bc = b * d - a, a * d - b, a * b - d
    rows = [1 - d * d, ab, ac, ab, 1 - b * b, bc, ac, bc, 1 - a * a]
    return 1 + 2 * a * b * d - a * a - b * b - d * d, torch.stack(rows, 1).unflatten(1, (3, 3))


class _Root(torch.autograd.Function):
    """√max(x, 0), whose gradient 1 / (2 √x) is at most 1 / (2 NEAR), and 0 where x is 0 or, by rounding, below: those vectors agree as
    well as can be told."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        root = x.clamp(min=0).sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return grad / (2 * root.clamp(min=NEAR)) * (root > 0)
