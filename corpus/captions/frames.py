"""Pictures of a clip for models that see pictures."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image

from omnivast.corpus.engine.results import Row
from omnivast.data.media.decode import read_clip
from omnivast.data.vision import frame_indices
from omnivast.utils.random import generator

MIDDLE = (0.3, 0.7)
"""The part of a clip, as shares of its frames, that its one picture is drawn from (Panda-70M)."""
QUALITY = 85
"""Of JPEG."""


def pictures(root: Path, clip: Row, count: int, seed: int) -> list[Image.Image]:
    """One picture, drawn from the middle of a clip (a row of ``clips.jsonl``), or several, one from each of as many equal parts. Raises
    MediaError."""
    frames = clip["last"] - clip["first"] + 1
    if count == 1:
        draw = float(torch.rand(1, generator=generator(seed, "frame", clip["id"])))
        chosen = [int((MIDDLE[0] + (MIDDLE[1] - MIDDLE[0]) * draw) * frames)]
    else:
        chosen = frame_indices(frames, count, training=False)
    read = read_clip(root / clip["source"], lambda whole: [min(clip["first"] + index, whole - 1) for index in chosen])
    assert read.frames is not None
    return [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in read.frames]


def jpeg(picture: Image.Image, side: int) -> bytes:
    """The file, its longer side at most ``side`` pixels."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
