"""Which frames of a clip are taken, and how they are brought to the model's square."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from omnivast.utils.random import generator

CROP_SCALE = (0.8, 1.0)
CROP_ATTEMPTS = 10

FrameTransform = Callable[[Tensor], Tensor]
"""(3, H, W) uint8 → (3, R, R) uint8."""


def frame_indices(count: int, parts: int, training: bool, generator: torch.Generator | None = None) -> list[int]:
    """One index out of ``count`` from each of ``parts`` equal parts, the first parts taking the remainder.

    Training draws it within the part; evaluation takes ⌈n/2⌉ − 1 of the part's n. Fewer than ``parts``: the last repeats.
    """
    if count < 1 or parts < 1:
        raise ValueError(f"cannot choose {parts} of {count} frames")
    if count <= parts:
        return [min(i, count - 1) for i in range(parts)]
    size, remainder = divmod(count, parts)
    sizes = [size + (i < remainder) for i in range(parts)]
    starts = [i * size + min(i, remainder) for i in range(parts)]
    if training:
        draws = torch.rand(parts, generator=generator).tolist()
        return [start + min(int(draw * n), n - 1) for start, n, draw in zip(starts, sizes, draws)]
    return [start + (n + 1) // 2 - 1 for start, n in zip(starts, sizes)]


def frame_transform(name: Literal["none", "crop_flip"], resolution: int, training: bool, key: tuple[object, ...] = ()) -> FrameTransform:
    """The transform of every frame of one clip. Training draws depend on ``key`` and the frame's size alone, so that all
    frames of a clip get the same crop and flip."""
    if name == "none":
        return lambda frame: _resize(frame, resolution, resolution)
    if not training:
        return lambda frame: _centre(frame, resolution)
    return lambda frame: _random_crop_flip(frame, resolution, key)


def _resize(frame: Tensor, height: int, width: int) -> Tensor:
    if frame.shape[-2:] == (height, width):
        return frame
    return tv.resize(frame, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)


def _centre(frame: Tensor, resolution: int) -> Tensor:
    height, width = frame.shape[-2:]
    if height <= width:
        frame = _resize(frame, resolution, int(resolution * width / height))
    else:
        frame = _resize(frame, int(resolution * height / width), resolution)
    return tv.center_crop(frame, [resolution, resolution])


def _random_crop_flip(frame: Tensor, resolution: int, key: tuple[object, ...]) -> Tensor:
    height, width = frame.shape[-2:]
    top, left, side, flip = _draw_crop(height, width, generator(*key))
    frame = tv.resized_crop(frame, top, left, side, side, [resolution, resolution], InterpolationMode.BICUBIC, antialias=True)
    return tv.horizontal_flip(frame) if flip else frame


def _draw_crop(height: int, width: int, draws: torch.Generator) -> tuple[int, int, int, bool]:
    """(top, left, side, flip) of a square of 0.8 to 1 of the area; the largest centred square where none that large fits."""
    flip, *areas = torch.rand(1 + CROP_ATTEMPTS, generator=draws).tolist()
    low, high = CROP_SCALE
    for draw in areas:
        side = round(math.sqrt(height * width * (low + (high - low) * draw)))
        if 0 < side <= min(height, width):
            top = int(torch.randint(height - side + 1, (), generator=draws))
            left = int(torch.randint(width - side + 1, (), generator=draws))
            return top, left, side, flip < 0.5
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, flip < 0.5
