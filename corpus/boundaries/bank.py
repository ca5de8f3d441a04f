"""The shots that the network is trained on: synthetic ones, and those of one's own videos; and how they are varied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from omnivast.corpus.boundaries.features import OFFSETS, features
from omnivast.corpus.boundaries.synthetic import film, scene
from omnivast.corpus.boundaries.thumbnails import Thumbnails

SHOTS_OF_A_SCENE = 3
LEAST = 40
"""Frames of a shot that is worth keeping."""
MOST = 150
"""Frames of a shot: longer ones are cut into parts, which are as alike as shots can be."""
Rng = np.random.Generator


def synthetic_shots(scenes: int, pictures: Sequence[ndarray], figures: Sequence[ndarray], rng: Rng) -> list[ndarray]:
    """Three shots of each scene, of 40 to 150 frames."""
    found = []
    for _ in range(scenes):
        what = scene(pictures, figures, rng)
        found += [film(what, int(rng.integers(LEAST, 150)), rng) for _ in range(SHOTS_OF_A_SCENE)]
    return found


def shots_of_video(path: Path) -> list[ndarray]:
    """Parts of a video in which nothing like a transition is seen: cut wherever two neighbouring frames, or two that are eight
    frames apart, resemble each other little. Strict on purpose: what is lost is only footage."""
    frames = np.concatenate([batch.thumbnails for batch in Thumbnails(path)])
    numbers = np.concatenate([features(torch.from_numpy(frames[start : start + 512])).numpy() for start in range(0, len(frames), 512)])
    near, far = (3 * OFFSETS.index(k) for k in (1, 8))
    histogram = 3 * len(OFFSETS)
    bad = (numbers[:, histogram + near] > 0.25) | (numbers[:, near] > 0.45) | (numbers[:, histogram + far] > 0.5)
    edges = [-1, *np.flatnonzero(bad), len(frames)]
    spans = [(start + 4, end - 3) for start, end in zip(edges, edges[1:]) if end - start > LEAST + 8]
    parts = [(start, end, -(-(end - start) // MOST)) for start, end in spans]
    return [part for start, end, count in parts for part in np.array_split(frames[start:end], count)]


def varied(shot: ndarray, rng: Rng) -> ndarray:
    """The same shot mirrored, reversed, faster, in other colours, or a part of it."""
    if rng.random() < 0.5:
        shot = shot[:, :, ::-1]
    if rng.random() < 0.3:
        shot = shot[::-1]
    if rng.random() < 0.25 and len(shot) > 2 * LEAST + 20:
        shot = shot[::2]
    if rng.random() < 0.4:
        height, width = shot.shape[1:3]
        part = rng.uniform(0.5, 0.95)
        top, left = rng.uniform(0, 1 - part, 2)
        rows, columns = ((np.linspace(start, start + part, size) * (size - 1)).round().astype(int)
                         for start, size in ((top, height), (left, width)))
        shot = shot[:, rows][:, :, columns]
    if rng.random() < 0.5:
        gain, lift = rng.uniform(0.65, 1.25, 3) * rng.uniform(0.75, 1.1), rng.uniform(-25, 25)
        shot = np.clip(shot * gain.astype(np.float32) + np.float32(lift), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(shot)


def recorded(frames: ndarray, rng: Rng) -> ndarray:
    """A composed video as a camera, an editor and an encoder leave it: grey, with black bars, noise, doubled frames, blocks that stay as
    they were until they change enough or a key frame comes."""
    if rng.random() < 0.1:
        frames = np.repeat(frames.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    if rng.random() < 0.15:
        frames = frames.copy()
        bar = int(rng.integers(1, 5))
        frames[:, :bar] = frames[:, -bar:] = 0
    if rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(0.5, 3), frames.shape[1:] + (4,)).astype(np.float32)
        frames = np.clip(frames + np.moveaxis(noise, -1, 0)[rng.integers(0, 4, len(frames))], 0, 255).astype(np.uint8)
    return _held(frames, rng) if rng.random() < 0.35 else frames


def _held(frames: ndarray, rng: Rng) -> ndarray:
    """As a frugal encoder: 3 x 3 pixels keep their old values while the change is small."""
    result = frames.copy()
    least, period = rng.uniform(2, 9), int(rng.choice((25, 50, 250)))
    for n in range(1, len(frames)):
        if n % period:
            change = np.abs(frames[n].astype(np.int16) - result[n - 1]).mean(-1)
            still = change.reshape(9, 3, 16, 3).mean((1, 3)) < least
            mask = np.repeat(np.repeat(still, 3, 0), 3, 1)[..., None]
            result[n] = np.where(mask, result[n - 1], frames[n])
    return result
