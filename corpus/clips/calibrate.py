"""Which distance means "the same shot", for the vectors at hand: read off the run's own cuts.

Pairs of frames half a second or so apart within a shot are alike; pairs on both sides of a cut mostly are not. The distance at which as
large a share of the first is further apart as of the second is nearer is what 0.6 was to Panda-70M's vectors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy import ndarray

from omnivast.corpus.split import Split, spans

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
    """(the distance, the share of errors at it); ``otherwise`` and None where there are too few pairs."""
    found = [distances(split) for split in splits]
    within, across = (np.sort(np.concatenate([np.empty(0), *(pair[kind] for pair in found)])) for kind in (0, 1))
    if min(len(within), len(across)) < ENOUGH:
        return otherwise, None
    places = np.unique(np.concatenate([within, across]))
    split_wrongly = 1 - np.searchsorted(within, places, side="right") / len(within)
    joined_wrongly = np.searchsorted(across, places, side="right") / len(across)
    best = int(np.abs(split_wrongly - joined_wrongly).argmin())
    return round(float(places[best]), 4), round(float((split_wrongly[best] + joined_wrongly[best]) / 2), 4)
