"""Rows of features that are the same but for rounding, as those of equal texts, or of clips without sound.

How a sum is rounded depends on what else was in the batch. Equal rows that differ in their last digits would be ranked by chance, and
another number of processes, or another batch size, would find other metrics.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Distance of two unit vectors in float32 that stand for the same: rounding keeps below 1e-6, of different texts or clips we know none."""
PROJECTIONS = 4
NEIGHBOURS = 4


def first_of_same(features: Tensor) -> np.ndarray:
    """(N, D) rows of unit length → (N,) int64: the number of the first row that is the same, mostly its own.

    Rows are sorted by a projection on a fixed random direction, and each compared with the next few: rows that are the same stand
    together, but for strangers that happen to fall between them.
    """
    count, width = features.shape
    directions = torch.randn(width, PROJECTIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = torch.cat([rows.double() @ directions for rows in features.split(1 << 16)]) if count else torch.empty(0, PROJECTIONS)
    order = places[:, 0].argsort(stable=True)
    sorted_places, limit = places[order], TOLERANCE * float(directions.norm(dim=0).max())
    first = np.arange(count)
    links = []
    for offset in range(1, min(NEIGHBOURS, count - 1) + 1):
        near = ((sorted_places[offset:] - sorted_places[:-offset]).abs() <= limit).all(1).nonzero().squeeze(1)
        pairs = torch.stack([order[near], order[near + offset]])
        same = (features[pairs[0]].double() - features[pairs[1]].double()).norm(dim=1) <= TOLERANCE
        links.append(pairs[:, same].numpy())
    one, other = np.concatenate(links, 1) if links else np.empty((2, 0), dtype=np.int64)
    while True:
        smallest = np.minimum(first[one], first[other])
        if (first[one] == smallest).all() and (first[other] == smallest).all():
            return first
        np.minimum.at(first, first[one], smallest)
        np.minimum.at(first, first[other], smallest)
        first = first[first]
