"""Which distance means "the same shot", for the vectors at hand: read off the run's own cuts.

Pairs of frames half a second or so apart within a shot are alike; pairs on both sides of a cut mostly are not. The distance at which as
large a share of the first is further apart as of the second is nearer is what 0.6 was to Panda-70M's vectors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy import ndarray

from omnivast.corpus.split import Split, spans

EDGES = np.arange(0, 2.0005, 0.0005)
"""Distances that are told apart; no two vectors of norm 1 are further apart than 2."""
ENOUGH = 20
"""Pairs of each kind, below which nothing is read off them."""


def distances(split: Split, longest: int = 5) -> tuple[ndarray, ndarray]:
    """(within shots, across cuts) of one source; pairs within are ``longest`` looks apart at most, so that slow change counts too."""
    looks, frames = split.looks.astype(np.float32), np.array(split.look_frames)
    shot = np.full(len(frames), -1)
    for number, (first, end) in enumerate(spans(split.boundaries, split.frames)):
        shot[(frames >= first) & (frames < end)] = number
    within, across = [np.empty(0)], [np.empty(0)]
    for step in range(1, longest + 1):
        apart = np.linalg.norm(looks[step:] - looks[:-step], axis=1)
        known = (shot[step:] >= 0) & (shot[:-step] >= 0)
        within.append(apart[known & (shot[step:] == shot[:-step])])
        if step <= 2:
            across.append(apart[known & (shot[step:] == shot[:-step] + 1)])
    return np.concatenate(within), np.concatenate(across)


def join_distance(splits: Iterable[Split], otherwise: float) -> tuple[float, float | None]:
    """(the distance, the share of errors at it); ``otherwise`` and None where there are too few pairs. Pairs are counted by distance, so
    that memory does not grow with the corpus."""
    counts = np.zeros((2, len(EDGES)), np.int64)
    for split in splits:
        for kind, apart in enumerate(distances(split)):
            counts[kind] += np.bincount(np.searchsorted(EDGES, apart), minlength=len(EDGES))[: len(EDGES)]
    if counts.sum(1).min() < ENOUGH:
        return otherwise, None
    within, across = counts.cumsum(1) / counts.sum(1, keepdims=True)  # shares at most so far apart as each edge
    best = int(np.abs((1 - within) - across).argmin())
    return round(float(EDGES[best]), 4), round(float((1 - within[best] + across[best]) / 2), 4)
