"""How the light of a video changes, part by part and moment by moment: what two copies share, and two moments of one scene do not.

A frame says where a video was taken; how it goes on says when. Each eighth of a second is kept as the mean brightness of 3 x 4 parts of the
frame, 96 bytes a second. Two clips are laid over each other at every offset, and correlated after each part's mean is taken off: neither
another encoder, nor another size, nor more light changes that much.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy import ndarray

RATE = 8
"""Moments a second."""
ROWS, COLUMNS = 3, 4
PARTS = ROWS * COLUMNS
STILL = 0.8
"""Levels of 255 by which the light of a part deviates from its mean where nothing moves: noise of cameras, encoders and rounding."""
OVERLAP = 0.5
"""Share of the shorter clip that must lie within the other …"""
LEAST = 12
"""… and moments that it must have."""


class Movement:
    """Collects frames of a video; the moments are counted from its time 0."""

    def __init__(self, base: Fraction) -> None:
        self._base = base
        self._sums = np.zeros((0, PARTS))
        self._counts = np.zeros(0, np.int64)
        self._at: int | None = None
        self.first = 0
        self._rows: list[ndarray] = []

    def add(self, thumbnails: ndarray, pts: ndarray) -> None:
        """(N, 27, 48, 3) uint8 and (N,) times in units of the stream."""
        light = thumbnails.mean(-1, dtype=np.float32).reshape(-1, ROWS, 27 // ROWS, COLUMNS, 48 // COLUMNS).mean((2, 4)).reshape(-1, PARTS)
        moments = np.floor(pts * float(self._base * RATE) + 1e-6).astype(np.int64)
        if self._at is None:
            self.first = self._at = int(moments[0])
        places = np.maximum(moments - self._at, 0)
        missing = int(places.max()) + 1 - len(self._sums)
        if missing > 0:
            self._sums = np.concatenate([self._sums, np.zeros((missing, PARTS))])
            self._counts = np.concatenate([self._counts, np.zeros(missing, np.int64)])
        np.add.at(self._sums, places, light)
        np.add.at(self._counts, places, 1)
        self._take(len(self._sums) - 1)

    def rows(self) -> ndarray:
        """(M, PARTS) uint8; a moment without a frame shows the one before."""
        self._take(len(self._sums))
        return np.concatenate([np.empty((0, PARTS), np.uint8), *self._rows])

    def _take(self, count: int) -> None:
        """The first ``count`` moments get no more frames."""
        if count <= 0 or self._at is None:
            return
        counts = self._counts[:count]
        shown = np.maximum.accumulate(np.where(counts > 0, np.arange(count), 0))
        means = (self._sums[:count] / np.maximum(counts, 1)[:, None])[shown]
        self._rows.append(np.round(means).astype(np.uint8))
        self._sums, self._counts, self._at = self._sums[count:], self._counts[count:], self._at + count


def alike(one: ndarray, other: ndarray) -> float | None:
    """(N, PARTS) and (M, PARTS) → how alike two clips are where they overlap, from -1 to 1; None where either hardly moves, so that nothing
    can be said. Of all offsets at which they overlap by enough the one counts at which their movements correlate best; alike are they no
    more than their light, part beside part, correlates there."""
    a, b = (clip.astype(np.float64) for clip in (one, other))
    if min(_energy(a), _energy(b)) < STILL**2:
        return None
    need = max(min(LEAST, len(a), len(b)), round(OVERLAP * min(len(a), len(b))))
    size = len(a) + len(b)
    a, b = a - a.mean(0), b - b.mean(0)
    products = np.fft.irfft(np.fft.rfft(a, size, 0) * np.fft.rfft(b, size, 0).conj(), size, 0)
    offsets = np.arange(need - len(b), len(a) - need + 1)  # b begins so many moments behind a
    start, end = np.maximum(offsets, 0), np.minimum(offsets + len(b), len(a))
    n = (end - start)[:, None]
    sums_a, squares_a = _between(a, start, end)
    sums_b, squares_b = _between(b, start - offsets, end - offsets)
    together = (products[offsets % size] - sums_a * sums_b / n).sum(1)
    own_a, own_b = (squares_a - sums_a**2 / n).sum(1), (squares_b - sums_b**2 / n).sum(1)
    floor = STILL**2 * PARTS * n[:, 0]
    correlation = together / np.sqrt(np.maximum(own_a, floor) * np.maximum(own_b, floor))
    best = int(correlation.argmax())
    light_a, light_b = (sums[best] / n[best] + clip.mean(0) for sums, clip in ((sums_a, one), (sums_b, other)))
    return min(float(correlation[best]), _beside(light_a, light_b))


def _beside(a: ndarray, b: ndarray) -> float:
    """Correlation of the mean light of two clips over the parts of the frame; 1 where both are lit evenly."""
    a, b = a - a.mean(), b - b.mean()
    if max(a.std(), b.std()) < STILL:
        return 1.0
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def _energy(clip: ndarray) -> float:
    return float(clip.var(0).mean()) if len(clip) else 0.0


def _between(clip: ndarray, start: ndarray, end: ndarray) -> tuple[ndarray, ndarray]:
    """(offsets, PARTS) sums and sums of squares of the moments from ``start`` to before ``end``."""
    sums, squares = (np.concatenate([np.zeros((1, PARTS)), values.cumsum(0)]) for values in (clip, clip**2))
    return sums[end] - sums[start], squares[end] - squares[start]
