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
"""Volume below which its gradient grows no further: about what rounding in float32 makes of the sine of two vectors that are the same."""


def volumes(texts: Tensor, clips: Tensor) -> Tensor:
    """Volumes (T, C) in [0, 1] of texts (T, D) with clips (C, k, D), unit vectors, in float32 also under autocast (float64 of float64).

    A vector of zeros stands for a modality that a clip lacks: the volume is then that of the others. The sign of a vector does not count:
    of one modality the volume is the sine of its angle to the text.
    """
    with torch.autocast(texts.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(texts.dtype, clips.dtype), torch.float32)
        texts, clips = texts.to(wide), clips.to(wide)
        present = (clips != 0).any(2).to(wide)
        # The volume is that of the first vector and the others' differences from it, of which less is lost by rounding where all agree.
        edges = torch.cat([clips[:, :1], clips[:, 1:] - clips[:, :1] * present[:, 1:, None]], 1)
        determinant, adjugate = _clip_parts(edges, 1 - present)
        products = [texts @ own.T for own in edges.unbind(1)]
        for i, one in enumerate(products):
            for j, other in enumerate(products[: i + 1]):
                determinant = determinant - (1 if i == j else 2) * adjugate[:, i, j] * one * other
        return _Root.apply(determinant)


def _clip_parts(edges: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Determinant (C,) and adjugate (C, k, k) of the Gram matrix M of each clip's ``edges`` (C, k, D), the first of length 1. Where one is
    ``absent`` (C, k) its place on the diagonal is 1, which leaves the determinant as it is without it."""
    k = edges.shape[1]
    one = edges.new_ones(len(edges))
    if k == 1:
        return one, one[:, None, None]
    first, second = edges[:, 0], edges[:, 1]
    m12, m22 = (first * second).sum(1), (second * second).sum(1) + absent[:, 1]
    if k == 2:
        return m22 - m12 * m12, torch.stack([m22, -m12, -m12, one], 1).unflatten(1, (2, 2))
    third = edges[:, 2]
    m13, m23, m33 = (first * third).sum(1), (second * third).sum(1), (third * third).sum(1) + absent[:, 2]
    a11, a22, a33 = m22 * m33 - m23 * m23, m33 - m13 * m13, m22 - m12 * m12
    a12, a13, a23 = m13 * m23 - m12 * m33, m12 * m23 - m13 * m22, m12 * m13 - m23
    return a11 + m12 * a12 + m13 * a13, torch.stack([a11, a12, a13, a12, a22, a23, a13, a23, a33], 1).unflatten(1, (3, 3))


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
