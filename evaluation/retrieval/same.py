"""Rows of features that are the same but for rounding, as those of equal texts, or of clips without sound.

How a sum is rounded depends on what else was in the batch. Equal rows that differ in their last digits would be ranked by chance, and
another number of processes, or another batch size, would find other metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from omnivast.evaluation.retrieval.search import Features
from omnivast.model.interface import Rows

TOLERANCE = 1e-5
"""Distance of two unit vectors in float32 that stand for the same: rounding keeps below 1e-6, of different texts or clips we know none."""
ROUNDED_TO_HALF = 2.0**-10
"""How far apart float16 can put two unit vectors that were the same."""
PROJECTIONS = 4
NEIGHBOURS = 4
PAIRS_AT_ONCE = 1 << 14


def projections(features: Rows) -> Tensor:
    """N rows → (N, PROJECTIONS) float64: their places along fixed random directions of unit length."""
    flat = _flat(features.tensors.values())
    directions = torch.randn(flat.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return flat @ torch.nn.functional.normalize(directions, dim=0)


def first_of_same(features: Features, places: Tensor) -> np.ndarray:
    """For each row, the number of the first row that is the same, which mostly is the row itself: (N,) int64.

    Rows are sorted by one projection, and each is compared with the next few: rows that are the same stand together, unless others
    happen to fall between them.

    Args:
        features: N rows, about of unit length, or as float16 has rounded them.
        places: (N, PROJECTIONS) the projections of these rows in float32.
    """
    order = places[:, 0].argsort(stable=True)
    sorted_places = places[order]
    first = np.arange(len(places))
    links = [np.empty((2, 0), dtype=np.int64)]
    for offset in range(1, min(NEIGHBOURS, len(places) - 1) + 1):
        near = ((sorted_places[offset:] - sorted_places[:-offset]).abs() <= TOLERANCE).all(1).nonzero().squeeze(1)
        pairs = torch.stack([order[near], order[near + offset]]).numpy()
        links += [part[:, _equal(features, part)] for part in np.array_split(pairs, -(-len(near) // PAIRS_AT_ONCE) or 1, axis=1)]
    one, other = np.concatenate(links, 1)
    while True:
        smallest = np.minimum(first[one], first[other])
        if (first[one] == smallest).all() and (first[other] == smallest).all():
            return first
        np.minimum.at(first, first[one], smallest)
        np.minimum.at(first, first[other], smallest)
        first = first[first]


def _equal(features: Features, pairs: np.ndarray) -> np.ndarray:
    """(P,) bool: whether the rows of (2, P) pairs are the same."""
    one, other = (_flat(torch.as_tensor(kept[side]) for kept in features.values()) for side in pairs)
    half = any(kept.dtype == np.float16 for kept in features.values())
    return ((one - other).norm(dim=1) <= TOLERANCE + (ROUNDED_TO_HALF if half else 0.0)).numpy()


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors (N, …) side by side: (N, numbers) float64."""
    parts = [x.flatten(1).double() for x in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
