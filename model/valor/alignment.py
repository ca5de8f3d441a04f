"""VALOR's fine-grained alignment: texts and clips are compared token by frame, not vector by vector (VALOR, section 3.3, equations 3
to 5, as released).

Letters: N texts, B clips, L slots of a text (its tokens), V slots of a clip (its frames, its slices of sound, or both), D width.

    text n, tokens         clip b, slots                     S (L, V), products of every token and every slot
    t0 t1 t2 [pad]    x    f0 f1 a0          ->      text → clip   Σ_t  w_t · max_v S[t, v]     w: softmax of the text's logits
                                                     clip → text   Σ_v  u_v · max_t S[t, v]     u: softmax of the clip's logits
                                                     score = (text → clip + clip → text) / 2

Padded slots have features of zero, so that their products are 0 instead of being left out: ``max_t`` is never below 0 where a text has
padding. That is how the released weights were trained; the score of a caption depends on whether it fills its length.

S of all texts and clips is never held: it is made in blocks of some texts and some clips, in the backward pass once more. Where no gradient
is asked for, as in evaluation, texts of like length share a block, and padding is not multiplied: what it would give is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnivast.utils.transfer import send, to_host

PRODUCTS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Elements of S that exist at once, by type of device: on a CPU those that its cache holds."""


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
    Without gradient the host waits for the texts' lengths; in a training step it does not.
    """
    learning = torch.is_grad_enabled()
    lengths = np.full(len(texts), texts.count) if learning or texts.mask is None else to_host(_lengths(texts.mask))
    order = lengths.argsort(kind="stable")
    in_order = np.array_equal(order, np.arange(len(order)))
    texts = texts if in_order else texts.rows(send(order, texts.features.device))
    weights = texts.weights()
    # Slots before clips, so that all that is done with products runs along clips that lie side by side.
    slot_weights = [Slots.joined([tracks[i] for i in group]).weights().T for group in groups]
    clips = torch.cat([track.features for track in tracks], 1).transpose(0, 1)
    sizes = [track.count for track in tracks]
    limit = PRODUCTS_AT_ONCE.get(clips.device.type, PRODUCTS_AT_ONCE["cuda"])
    width = max(1, min(clips.shape[1], math.isqrt(limit) // len(clips)))
    bands: list[tuple[Tensor, ...]] = []
    for start, stop, length in _runs(lengths[order], limit // (len(clips) * width)):
        own = texts.features[start:stop, :length], weights[start:stop, :length]
        pieces = []
        for first in range(0, clips.shape[1], width):
            part = slice(first, first + width)
            block = *own, clips[:, part], [w[:, part] for w in slot_weights], sizes, groups, length < texts.count
            again = learning and (stop - start < len(texts) or width < clips.shape[1])
            pieces.append(checkpoint(_block_scores, *block, use_reentrant=False) if again else _block_scores(*block))
        bands.append(tuple(torch.cat(parts, 1) for parts in zip(*pieces)))
    scores = [torch.cat(parts) for parts in zip(*bands)]
    back = None if in_order else send(order.argsort(), clips.device)
    return scores if back is None else [own[back] for own in scores]


def _lengths(mask: Tensor) -> Tensor:
    """(N, L) bool → (N,) up to where a text has tokens."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)


def _runs(lengths: NDArray[np.int64], tokens: int) -> list[tuple[int, int, int]]:
    """(start, stop, length) of runs of texts, whose lengths do not fall: as many texts as have ``tokens`` together, when all are as long as
    the longest of them; at least one."""
    found, start = [], 0
    while start < len(lengths):
        fits = np.arange(1, len(lengths) - start + 1) * lengths[start:] <= tokens
        stop = start + max(1, int(fits.sum()))
        found.append((start, stop, max(1, int(lengths[stop - 1]))))
        start = stop
    return found


def _block_scores(texts: Tensor, weights: Tensor, clips: Tensor, slot_weights: Sequence[Tensor], sizes: Sequence[int],
                  groups: Sequence[Sequence[int]], shortened: bool) -> tuple[Tensor, ...]:
    """Scores (n, b) of each group for some texts (n, L, D), weights (n, L), and all slots of some clips (V, b, D), weights (V of the group,
    b). ``shortened``: padding of all these texts was left out."""
    with torch.autocast(texts.device.type, enabled=False):
        products = F.linear(texts.float().flatten(0, 1), clips.float().flatten(0, 1))
        tracks = products.view(*texts.shape[:2], *clips.shape[:2]).split(list(sizes), 2)
        best_slot = [_largest(part, 2) for part in tracks]  # (n, L, b) of each track
        best_token = [_largest(part, 1) for part in tracks]  # (n, V, b) of each track
        if shortened:
            best_token = [part.clamp(min=0) for part in best_token]
        scores = []
        for group, own in zip(groups, slot_weights):
            best = best_slot[group[0]]
            for track in group[1:]:
                best = torch.maximum(best, best_slot[track])
            to_clip = torch.bmm(weights[:, None], best)[:, 0]
            to_text = (torch.cat([best_token[track] for track in group], 1) * own).sum(1)
            scores.append((to_clip + to_text) / 2)
        return tuple(scores)


def _largest(x: Tensor, dim: int) -> Tensor:
    """The maximum over a dimension. For the backward pass ``max`` keeps where it is, ``amax``, which is faster, all of ``x``."""
    return x.max(dim).values if torch.is_grad_enabled() else x.amax(dim)
