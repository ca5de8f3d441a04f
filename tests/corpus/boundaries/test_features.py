"""What the numbers of a frame say of transitions that are made by hand."""

from __future__ import annotations

import numpy as np
import torch

from omnivast.corpus.boundaries.features import CONTEXT, COUNT, COURSES, OF_REGION, REGION_OFFSETS, REGIONS, WHOLE, features
from omnivast.corpus.boundaries.synthetic import film, scene
from omnivast.corpus.boundaries.transitions import dissolve

LINE = REGION_OFFSETS.index(8)
COURSE = 4 * len(REGION_OFFSETS)
MOVED = OF_REGION - 2
"""Places of the numbers of a region."""


def of_regions(frames):
    """(T, H, W, 3) uint8 → (T, regions, numbers)."""
    numbers = features(torch.from_numpy(frames))
    assert numbers.shape == (len(frames), COUNT)
    return numbers[:, WHOLE:].reshape(len(frames), REGIONS, OF_REGION)


def test_regions_in_which_nobody_moves_show_the_line_of_a_dissolve():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 9, 16, 3), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    between = dissolve(np.stack([one] * 29), np.stack([other] * 29), "linear")
    frames = np.concatenate([np.stack([one] * 40), between, np.stack([other] * 40)])
    flicker = rng.integers(0, 256, (len(frames), 9, 8, 3), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    frames[:, :, :24] = flicker
    middle = of_regions(frames)[54].reshape(3, 4, OF_REGION)
    share, off = middle[..., 4 * LINE + 1], middle[..., 4 * LINE + 2]
    assert (share[:, 2:] - 0.5).abs().max() < 0.05 and off[:, 2:].max() < 0.01 and off[:, :2].min() > 0.1
    one_way = middle[..., COURSE + 2 * COURSES.index(2) + 1]
    assert one_way[:, 2:].min() > 0.8 and one_way[:, :2].max() < 0.4


def test_what_has_only_moved_is_told_from_what_is_new():
    world = scene([], [], np.random.default_rng(1))
    picture = film(world, 41, np.random.default_rng(2))[0]
    moved = np.stack([np.roll(picture, (n, 2 * n), (0, 1)) for n in range(20)])
    new = np.random.default_rng(3).integers(0, 256, picture.shape, dtype=np.uint8)
    numbers = of_regions(np.concatenate([moved, np.stack([new] * 20)]))[..., MOVED]
    inner = numbers.reshape(40, 3, 4)[:, 1, 1:3]
    assert inner[1:20].max() < 0.4 < inner[20].min()


def test_brightness_alone_moves_nothing():
    picture = np.random.default_rng(0).integers(60, 120, (27, 48, 3), dtype=np.uint8)
    frames = np.stack([picture] * 10 + [picture * 2] * 10)
    assert of_regions(frames)[..., MOVED].max() < 0.05


def test_frames_beyond_the_context_change_nothing():
    frames = torch.randint(0, 256, (2 * CONTEXT + 3, 27, 48, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[-1] = 255 - changed[-1]
    numbers, others = features(frames), features(changed)
    assert torch.allclose(numbers[CONTEXT + 1], others[CONTEXT + 1]) and not torch.allclose(numbers[CONTEXT + 2], others[CONTEXT + 2])
