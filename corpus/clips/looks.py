"""What a frame looks like, in few numbers, from its thumbnail: by these, frames are told alike where no trained tower is at hand."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

WIDTH = 9 * 16 * 2 + 4 * 27
"""Brightness and its pattern in 9 x 16 places, and the colours of four quarters in 27 bins each."""


def look_of(thumbnails: ndarray) -> ndarray:
    """(N, 27, 48, 3) uint8 → (N, WIDTH) float16, rows of norm 1."""
    x = thumbnails.astype(np.float32) / 255
    places = x.mean(-1).reshape(-1, 9, 3, 16, 3).mean((2, 4))
    mean = places.mean((1, 2), keepdims=True)
    pattern = (places - mean) / (places.std((1, 2), keepdims=True) + 0.05)
    parts = [places.reshape(len(x), -1), pattern.reshape(len(x), -1) * 0.5]
    bins = np.minimum(thumbnails // 86, 2).astype(np.int64)
    index = (bins[..., 0] * 3 + bins[..., 1]) * 3 + bins[..., 2]
    for rows in (slice(0, 13), slice(13, 27)):
        for columns in (slice(0, 24), slice(24, 48)):
            quarter = index[:, rows, columns].reshape(len(x), -1)
            counts = (quarter[..., None] == np.arange(27)).mean(1)
            parts.append(np.sqrt(counts) * 6)
    found = np.concatenate(parts, 1).astype(np.float32)
    return (found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-6)).astype(np.float16)


def shapes_of(looks: ndarray) -> ndarray:
    """(N, WIDTH) → (N, 144): the pattern of light alone, which more light does not change. Rows of another width, a tower's, are left."""
    if looks.shape[-1] != WIDTH:
        return looks.astype(np.float32)
    shapes = looks[..., 9 * 16 : 2 * 9 * 16].astype(np.float32)
    return shapes / (np.linalg.norm(shapes, axis=-1, keepdims=True) + 1e-3)
