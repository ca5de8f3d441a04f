"""Clips of many sources → those that a corpus takes: copies left out, spread evenly over the sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy import ndarray

from omnivast.utils.random import stable_seed

BLOCK = 4096
"""Rows that are compared at once."""


def copies(vectors: ndarray, distance: float) -> ndarray:
    """(N, D) unit vectors → (N,) bool: whether a row that is kept stands before it, nearer than ``distance``. Memory of a block of rows
    at a time; the first of each group of copies is kept, whatever the size of the blocks."""
    dropped = np.zeros(len(vectors), bool)
    floor = 1 - distance**2 / 2
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        for before in range(0, start, BLOCK):
            kept = np.flatnonzero(~dropped[before : min(before + BLOCK, start)]) + before
            if len(kept):
                dropped[start : start + len(rows)] |= (rows @ vectors[kept].T >= floor).any(1)
        near = rows @ rows.T >= floor
        for n in range(1, len(rows)):
            if not dropped[start + n]:
                dropped[start + n] = bool((near[n, :n] & ~dropped[start : start + n]).any())
    return dropped


def spread(sources: Sequence[Hashable], count: int, seed: int = 0) -> list[int]:
    """Numbers of ``count`` clips, in order: from each source as many as from any other, as far as it has them. ``sources`` names the source
    of each clip. Which ones is drawn from (seed, source, place), so that it depends neither on the order nor on the number of workers."""
    own: dict[Hashable, list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        own[source].append(number)
    for source, numbers in own.items():
        order = sorted(range(len(numbers)), key=lambda place: stable_seed(seed, source, place))
        own[source] = [numbers[place] for place in order]
    chosen: list[int] = []
    for turn in range(max(map(len, own.values()), default=0)):
        having = sorted((source for source in own if len(own[source]) > turn), key=lambda source: stable_seed(seed, source, "turn", turn))
        chosen += [own[source][turn] for source in having[: count - len(chosen)]]
        if len(chosen) >= count:
            break
    return sorted(chosen)
