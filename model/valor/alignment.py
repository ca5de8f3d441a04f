"""VALOR's fine-grained alignment: texts and clips are compared token by frame, not vector by vector (VALOR, section 3.3, equations 3
to 5, as released).

Letters: N texts, B clips, L slots of a text (its tokens), V slots of a clip (its frames, its slices of sound, or both), D width.

    text n, tokens         clip b, slots                     S (L, V), products of every token and every slot
    t0 t1 t2 [pad]    x    f0 f1 a0          ->      text → clip   Σ_t  w_t · max_v S[t, v]     w: softmax of the text's logits
                                                     clip → text   Σ_v  u_v · max_t S[t, v]     u: softmax of the clip's logits
                                                     score = (text → clip + clip → text) / 2

Padded slots have features of zero, so that their products are 0 instead of being left out: ``max_t`` is never below 0 where a text has
padding. That is how the released weights were trained; the score of a caption depends on whether it fills its length.

S of all texts and clips is never held: texts are taken in blocks, and in the backward pass each block's products are made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PRODUCTS_AT_ONCE = {"cpu": 2**22, "cuda": 2**27}
"""Elements of S that exist at once, by type of device."""


@dataclass
class Slots:
    """One side of the comparison: what there is of each of N texts or clips.

    features: (N, L, D) unit vectors, zeros at padding; logits: (N, L) weights before the softmax, or None where all slots weigh the
    same; mask: (N, L) bool, False at padding, or None where there is none.
    """

    features: Tensor
    logits: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mask is not None:
            self.features = self.features * self.mask[..., None]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def count(self) -> int:
        """L."""
        return self.features.shape[1]

    def weights(self) -> Tensor:
        """(N, L) float32, sums of 1 over the slots that are not padding."""
        logits = self.features.new_zeros(self.features.shape[:2]) if self.logits is None else self.logits
        logits = logits.float()
        return (logits if self.mask is None else logits.masked_fill(~self.mask, float("-inf"))).softmax(1)

    def full_mask(self) -> Tensor:
        return self.features.new_ones(self.features.shape[:2], dtype=torch.bool) if self.mask is None else self.mask

    def rows(self, index: Tensor | slice) -> Slots:
        """Some of the texts or clips."""
        return Slots(*(None if x is None else x[index] for x in (self.features, self.logits, self.mask)))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: Sequence[Slots]) -> Slots:
        """Slots of several kinds side by side, as frames and slices are ("feature fusion"): one softmax runs over all of them."""
        if len(parts) == 1:
            return parts[0]
        logits = None
        if any(p.logits is not None for p in parts):
            logits = torch.cat([p.features.new_zeros(p.features.shape[:2]) if p.logits is None else p.logits for p in parts], 1)
        mask = None if all(p.mask is None for p in parts) else torch.cat([p.full_mask() for p in parts], 1)
        return Slots(torch.cat([p.features for p in parts], 1), logits, mask)


def slot_logits(dim: int) -> nn.Sequential:
    """A layer of its own for each kind of slot: unit vectors → how much each weighs, before the softmax (…, 1)."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def fine_scores(texts: Slots, clips: Slots) -> Tensor:
    """(N, B) float32: the score of every text with every clip, before the temperature. Differentiable in all that it is given."""
    return grouped_scores(texts, [clips], [(0,)])[0]


def grouped_scores(texts: Slots, tracks: Sequence[Slots], groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """The scores (N, B) of texts with several groups of tracks, such as frames, sound, and both: ``groups`` names the tracks of each.

    The products with a track are computed once for all groups that it belongs to. A group's softmax runs over all slots of its tracks.
    """
    weights = texts.weights()
    slot_weights = [Slots.joined([tracks[i] for i in group]).weights() for group in groups]
    clips = torch.cat([track.features for track in tracks], 1)
    sizes = [track.count for track in tracks]
    limit = PRODUCTS_AT_ONCE.get(clips.device.type, PRODUCTS_AT_ONCE["cuda"])
    size = max(1, limit // max(1, clips.shape[0] * clips.shape[1] * texts.count))
    blocks = []
    for start in range(0, len(texts), size):
        block = texts.features[start : start + size], weights[start : start + size], clips, slot_weights, sizes, groups
        again = size < len(texts) and torch.is_grad_enabled()
        blocks.append(checkpoint(_block_scores, *block, use_reentrant=False) if again else _block_scores(*block))
    return [torch.cat(parts) for parts in zip(*blocks)]


def _block_scores(texts: Tensor, weights: Tensor, clips: Tensor, slot_weights: Sequence[Tensor], sizes: Sequence[int],
                  groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Scores (n, B) of each group for a block of texts (n, L, D), weights (n, L), and all slots of the clips (B, V, D)."""
    with torch.autocast(texts.device.type, enabled=False):
        products = torch.einsum("nld,bvd->nlbv", texts.float(), clips.float()).split(list(sizes), 3)
        best_slot = [part.max(3).values for part in products]  # (n, L, B) of each track
        best_token = [part.max(1).values for part in products]  # (n, B, V) of each track
        scores = []
        for group, own in zip(groups, slot_weights):
            best = best_slot[group[0]]
            for track in group[1:]:
                best = torch.maximum(best, best_slot[track])
            to_clip = torch.einsum("nl,nlb->nb", weights, best)
            to_text = torch.einsum("bv,nbv->nb", own, torch.cat([best_token[track] for track in group], 2))
            scores.append((to_clip + to_text) / 2)
        return scores
