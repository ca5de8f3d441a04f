"""Pictures → pixels: files of one picture, animated ones, and folders of frames."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from omnivast.data.media.containers import IMAGE_EXTENSIONS
from omnivast.data.media.errors import MediaError, named
from omnivast.data.media.parts import Part, Source, as_source, content, span
from omnivast.data.vision import FrameTransform

MAX_PIXELS = 16_384 * 8_192
RANGES = {"I": (255, 65_535, 2**31 - 1), "F": (1, 255, 65_535, 2**32 - 1)}
"""Greatest values of white in modes that do not say it: the smallest that holds all values of a picture counts."""


def read_image(path: str | Path | Part, transform: FrameTransform | None = None) -> Tensor:
    """(3, H, W) uint8 RGB, upright by its EXIF orientation; of an animated one the first frame. Raises MediaError."""
    with _opened(as_source(path)) as image:
        frame = _pixels(image)
    return (transform(frame) if transform else frame).contiguous()


def is_animation(path: Source) -> bool:
    """Whether the file is of a kind of picture that may move and that FFmpeg does not read: WebP or PNG. Raises OSError, CutError."""
    place, start, size = span(path)
    if not os.path.isfile(place):
        return False
    with open(place, "rb", buffering=0) as file:
        file.seek(start)
        head = file.read(min(size, 12))
    return head[:8] == b"\x89PNG\r\n\x1a\n" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def read_animation(path: Source, choose: Callable[[int], list[int]], transform: FrameTransform | None) -> tuple[Tensor, int]:
    """The chosen frames (F, 3, H, W) uint8 RGB of a moving picture, and how many it has. Raises MediaError,
    also for one that stands still."""
    with _opened(path) as image:
        count = getattr(image, "n_frames", 1)
        if count < 2:
            raise MediaError(path, "a still picture, not a video; \"vision_format\": \"image_rawimage\" reads pictures")
        indices = choose(count)
        kept: dict[int, Tensor] = {}
        for index in sorted(set(indices)):
            image.seek(index)
            frame = _pixels(image.copy())
            kept[index] = transform(frame) if transform else frame
        return torch.stack([kept[index] for index in indices]), count


def read_frames(folder: str | Path, choose: Callable[[int], list[int]], transform: FrameTransform | None) -> tuple[Tensor, int]:
    """The chosen frames of a folder of images in natural order (frame2 before frame10), and how many it has. Only the chosen ones are
    read; hidden files, which systems leave beside them, are no frames. Raises MediaError."""
    with named(str(folder)):
        names = sorted((n for n in os.listdir(folder) if n.lower().endswith(IMAGE_EXTENSIONS) and not n.startswith(".")), key=_natural)
    if not names:
        raise MediaError(folder, f"no frame in this folder (extensions {', '.join(IMAGE_EXTENSIONS)})")
    indices = choose(len(names))
    kept = {i: read_image(os.path.join(folder, names[i]), transform) for i in sorted(set(indices))}
    try:
        return torch.stack([kept[i] for i in indices]), len(names)
    except RuntimeError:
        raise MediaError(folder, "its frames have different sizes") from None


@contextmanager
def _opened(path: Source) -> Iterator[Image.Image]:
    with named(path):
        if span(path)[2] == 0:
            raise MediaError(path, "the file is empty")
        try:
            with Image.open(io.BytesIO(content(path)) if isinstance(path, Part) else path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise MediaError(path, f"{image.width}x{image.height} is larger than {MAX_PIXELS} pixels")
                yield image
        except Image.UnidentifiedImageError:
            raise MediaError(path, "not an image") from None


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 RGB. Grey values of more than 8 bits are brought to 8: Pillow's own conversion clips them."""
    image = ImageOps.exif_transpose(image)
    if image.mode in RANGES or image.mode.startswith("I;"):
        grey = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
        ranges = RANGES.get(image.mode, (65_535,))
        white = next((value for value in ranges if grey.max() <= value), grey.max())
        image = Image.fromarray(np.rint(grey.clip(0, white) * (255 / white)).astype(np.uint8))
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(True, int(part), "") if part.isdigit() else (False, 0, part) for part in re.split(r"([0-9]+)", name)]
