"""What is seen, heard and said, weighed: from weights of tracks to a mix of the model's scores by group, such as vision + audio.

Weights of tracks w_v, w_a, w_s choose the mix: sorted from the largest, w₁ ≥ w₂ ≥ w₃, the score is

    (w₁ − w₂) · s(track 1) + (w₂ − w₃) · s(tracks 1, 2) + w₃ · s(tracks 1, 2, 3), divided by w₁

(a Choquet integral of the group scores) but for one thing: each share is divided by the variance of its group's scores, and then all by
their sum, as measurements are combined that are of different precision. Scores by fewer tracks vary more, also among clips that fit alike,
and would drown the small differences by which all tracks together tell clips apart. Equal weights are the model's score by all tracks
together; one track alone is that track's own score; all between is continuous. A moment without some track is compared by the tracks that
it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from omnivast.config.tasks import Group, Modality
from omnivast.config.words import did_you_mean
from omnivast.inference.index.sure import QueryError

WEIGHTS = {"seen": Modality.VISION, "heard": Modality.AUDIO, "said": Modality.SUBTITLE}
"""What weights are called → the track."""


def track_weights(weights: Mapping[str, float] | None) -> dict[Modality, float]:
    """Weights of tracks by name → by modality; None: all the same. Raises QueryError."""
    if weights is None:
        return dict.fromkeys(Modality, 1.0)
    for name, weight in weights.items():
        if name not in WEIGHTS:
            raise QueryError(f"there is no track '{name}' to weigh; the tracks are {', '.join(WEIGHTS)}.{did_you_mean(name, WEIGHTS)}")
        if not np.isfinite(weight) or weight < 0:
            raise QueryError(f"the weight of '{name}' is {weight:g}; expected 0 or more (what a result is not to be like is a negative "
                             "text: without)")
    by_track = {track: float(weights.get(name, 0.0)) for name, track in WEIGHTS.items()}
    if not any(by_track.values()):
        raise QueryError("every weight is 0; give at least one track more")
    return by_track


def mix(weights: Mapping[Modality, float], has: frozenset[Modality], known: Sequence[Group],
        variances: Mapping[Group, float] | None = None) -> list[tuple[float, Group]]:
    """The groups by which moments with the tracks ``has`` are scored, and their shares, which sum to 1 (see the module's docstring).
    Where the model does not know a group of tracks, the known groups of which it consists stand for it, in equal shares; empty where it
    knows none of the tracks. ``variances``: of the groups' scores; all alike where they are not given."""
    tracks = sorted((track for track in has if weights[track] > 0), key=lambda track: -weights[track])
    shares: dict[Group, float] = {}
    for place, track in enumerate(tracks):
        below = weights[tracks[place + 1]] if place + 1 < len(tracks) else 0.0
        parts = _parts(frozenset(tracks[: place + 1]), known)
        for group in parts:
            shares[group] = shares.get(group, 0.0) + (weights[track] - below) / len(parts)
    shares = {group: share / (variances or {}).get(group, 1.0) for group, share in shares.items()}
    total = sum(shares.values())
    return [(share / total, group) for group, share in shares.items() if share > 0]


def _parts(tracks: frozenset[Modality], known: Sequence[Group]) -> list[Group]:
    """The group of exactly these tracks or, of those within them, the largest that cover what others do not."""
    parts: list[Group] = []
    for group in sorted(known, key=lambda group: -len(group.modalities)):
        if set(group) <= tracks and not any(set(group) <= set(part) for part in parts):
            parts.append(group)
    exact = [group for group in parts if set(group) == tracks]
    return exact or parts
