"""Which frames of a clip are taken, and how they are brought to the model's square."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from omnivast.utils.random import generator

CROP_SCALE = (0.8, 1.0)
CROP_ATTEMPTS = 10

FrameTransform = Callable[[Tensor], Tensor]
"""(3, H, W) uint8 → (3, R, R) uint8; floats stay floats, and are not rounded."""


@dataclass(frozen=True)
class Resize:
    """How frames are brought to another size. bicubic: by torchvision, on whole numbers; bilinear: on floats, rounded at last.
    antialias: whether what is too fine for the new size is averaged away, rather than left to chance."""

    mode: Literal["bicubic", "bilinear"]
    antialias: bool

    def __call__(self, frame: Tensor, height: int, width: int) -> Tensor:
        """(3, H, W) → (3, height, width)."""
        if frame.shape[-2:] == (height, width):
            return frame
        if self.mode == "bicubic":
            return tv.resize(frame, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=self.antialias)
        resized = F.interpolate(frame[None].float(), (height, width), mode="bilinear", align_corners=False, antialias=self.antialias)[0]
        return resized if frame.is_floating_point() else resized.round_().to(torch.uint8)


RESIZES = {"bicubic": Resize("bicubic", antialias=True), "bilinear": Resize("bilinear", antialias=False)}
"""By the name that models state: as VAST's frames are resized, and as VALOR's were when its results were published."""


def find_resize(name: str, antialias: bool | None = None) -> Resize:
    """The resize that a model states; ``antialias``, unless it is None, in place of its own."""
    resize = RESIZES[name]
    return resize if antialias is None else replace(resize, antialias=antialias)


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


def frame_transform(name: Literal["none", "crop_flip"], resolution: int, training: bool, key: tuple[object, ...] = (),
                    resize: Resize = RESIZES["bicubic"]) -> FrameTransform:
    """The transform of every frame of one clip. Training draws depend on ``key`` and the frame's size alone, so that all
    frames of a clip get the same crop and flip."""
    if name == "none":
        return lambda frame: resize(frame, resolution, resolution)
    if not training:
        return lambda frame: _centre(frame, resolution, resize)
    return lambda frame: _random_crop_flip(frame, resolution, key, resize)


def _centre(frame: Tensor, resolution: int, resize: Resize) -> Tensor:
    height, width = frame.shape[-2:]
    if height <= width:
        frame = resize(frame, resolution, int(resolution * width / height))
    else:
        frame = resize(frame, int(resolution * height / width), resolution)
    return tv.center_crop(frame, [resolution, resolution])


def _random_crop_flip(frame: Tensor, resolution: int, key: tuple[object, ...], resize: Resize) -> Tensor:
    height, width = frame.shape[-2:]
    top, left, side, flip = _draw_crop(height, width, generator(*key))
    frame = resize(frame[..., top : top + side, left : left + side], resolution, resolution)
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
